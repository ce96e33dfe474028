"""PyTorch networks called on a signature's inputs, and the tensors that they return, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from compressctl.core.model import TensorSpec, TorchModel

_TRACED, _APART = 12, 4
"""The size of the first open axis, and what lies between two: longer than a kernel, and shorter than any table of positions."""


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
    return {name: _TRACED + _APART * place for place, name in enumerate(names)}


def outputs_of(model: TorchModel, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Without gradients, on the network's own device and in the mode that it is in. inputs: by name in the signature."""
    import torch

    device = device_of(model.body)
    with torch.no_grad():
        return named_outputs(model.body(*(torch.tensor(inputs[s.name], device=device) for s in model.signature.inputs)))


def named_outputs(given: Any) -> dict[str, Tensor]:
    """One tensor is called "output"; several by their keys, or "output_0", "output_1", ... Values that are None are left out.

    Raises UsageError when a forward pass returned anything but tensors.
    """
    import torch

    if isinstance(given, Mapping):
        named: dict[str, Any] = {str(key): value for key, value in given.items() if value is not None}
    elif isinstance(given, list | tuple):
        named = {f"output_{position}": value for position, value in enumerate(given) if value is not None}
    else:
        named = {"output": given}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"the network's {name} is a {type(value).__name__}, not a tensor",
                hint="wrap the network in a module whose forward returns a tensor, a tuple or a dict of tensors",
            )
    if not named:
        raise UsageError("the network returns nothing")
    return named
