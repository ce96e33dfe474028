"""PyTorch networks called on a signature's inputs, and the tensors that they return, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from compressctl.core.model import TensorSpec, TorchModel

_TRACED, _APART = 12, 4
"""The size of the first open axis, and what lies between two: longer than a kernel, and shorter than any table of positions."""

_OF_IMAGES = 64, 32
"""The same of inputs with four axes and more, which are halved a few times on their way, and may be put beside what was halved."""


def device_of(network: nn.Module) -> torch.device:
    import torch

    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def zero_inputs(specs: Sequence[TensorSpec], samples: int = 2, longer: int = 0) -> tuple[Tensor, ...]:
    """What is enough to see which layers are called, in which order. specs: with the batch as first axis; open axes as in `traced_shapes`."""
    import torch

    shapes = traced_shapes(specs, samples, longer)
    return tuple(torch.zeros(shape, dtype=getattr(torch, s.dtype)) for s, shape in zip(specs, shapes, strict=True))


def traced_shapes(specs: Sequence[TensorSpec], samples: int = 2, longer: int = 0) -> list[list[int]]:
    """Of inputs to trace a network with: a size for each open axis, the same under one name. longer: how much longer those are than usual."""
    sizes = traced_sizes(specs)
    return [[samples, *(n if isinstance(n, int) else sizes[n] + longer for n in s.shape[1:])] for s in specs]


def traced_sizes(specs: Sequence[TensorSpec]) -> dict[str, int]:
    """By open axis: sizes that differ, so that outputs tell which one they have."""
    names = dict.fromkeys(size for spec in specs for size in spec.shape[1:] if isinstance(size, str))
    of_images = {size for spec in specs for size in spec.shape[1:] if len(spec.shape) > 3}
    ways = {name: _OF_IMAGES if name in of_images else (_TRACED, _APART) for name in names}
    return {name: first + apart * place for place, (name, (first, apart)) in enumerate(ways.items())}


def outputs_of(model: TorchModel, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Without gradients, on the network's own device and in the mode that it is in. inputs: by name in the signature."""
    import torch

    device = device_of(model.body)
    with torch.no_grad():
        return named_outputs(model.body(*(torch.tensor(inputs[s.name], device=device) for s in model.signature.inputs)))


def named_outputs(given: Any) -> dict[str, Tensor]:
    """One tensor is called "output"; several by their keys or fields, or "output_0", "output_1", ... by place.

    What is nested is called by its way, joined by dots: "boxes.0", "states.key". Values that are None are left out.
    Raises UsageError when a forward pass returned anything but tensors, and where two have one name.
    """
    import torch

    named = dict(_checked_names(leaves(given)))
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"the network's {name} is a {type(value).__name__}, not a tensor",
                hint="say which outputs the file shall have, `outputs: [...]` in the model section, or wrap the network in a module whose forward "
                "returns tensors: one, or tuples, dicts and dataclasses of them",
            )
    if not named:
        raise UsageError("the network returns nothing")
    return named


def leaves(given: Any) -> Iterator[tuple[str, Any]]:
    """What a forward pass returned, each value under its name; None is no value."""
    if _parts(given, "output_") is None:
        yield from () if given is None else [("output", given)]
        return
    yield from _inside(given, "", 0)


def _inside(given: Any, way: str, depth: int) -> Iterator[tuple[str, Any]]:
    parts = _parts(given, "" if way else "output_")
    if parts is None or depth > _DEEPEST:
        yield way, given
        return
    for name, value in parts:
        if value is not None:
            yield from _inside(value, f"{way}.{name}" if way else name, depth + 1)


_DEEPEST = 16


def _parts(given: Any, numbered: str) -> list[tuple[str, Any]] | None:
    """What a value holds, by key, field or place; None for what is no container."""
    if isinstance(given, Mapping):
        return [(str(key), value) for key, value in given.items()]
    if isinstance(given, tuple) and hasattr(given, "_fields"):
        return list(zip(given._fields, given, strict=True))
    if isinstance(given, list | tuple):
        return [(f"{numbered}{place}", value) for place, value in enumerate(given)]
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        return [(field.name, getattr(given, field.name, None)) for field in dataclasses.fields(given)]
    return None


def _checked_names(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    met = set()
    for name, value in named:
        if name in met:
            raise UsageError(
                f"two of the network's outputs are called {name}", hint="give one of the two another key, without a dot"
            )
        met.add(name)
        yield name, value
