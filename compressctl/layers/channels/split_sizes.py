"""Networks that split channels by sizes: where these are written, so that a cut network has others.

A trace follows a marker, a layer without an effect on which channels go, to the channels that are split, and slices to its parts. Torch's own
`split` would leave to the order of the trace which part has which size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_SPLITS = {torch.split, torch.split_with_sizes, Tensor.split, Tensor.split_with_sizes, torch.functional.split}
_MARKER = "split_marker_"


@dataclass(frozen=True)
class Split:
    """A call that splits channels. marker: the name of its layer in the traced network. attributes: by part, the attribute of a module that
    holds its size and the place in it, None where it is written into the code of `module`."""

    marker: str
    module: str
    sizes: tuple[int, ...]
    attributes: tuple[tuple[str, int] | None, ...]


def mark_splits(network: nn.Module, inputs: Sequence[Tensor]) -> list[Split]:
    """Give a network that is traced a marker for each call, in their order. Nothing where it cannot be run."""
    calls = _Calls()
    inside: list[str] = []
    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        handles.append(module.register_forward_hook(lambda *_: inside.pop() and None))
    calls.inside = inside
    try:
        with torch.no_grad(), calls:
            network(*inputs)
    except Exception:
        return []
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for number, (module, sizes, is_last) in enumerate(calls.found):
        marker = f"{_MARKER}{number}"
        width = sum(sizes)
        network.add_module(marker, nn.LayerNorm(width) if is_last else nn.PReLU(width))
        held = vars(network.get_submodule(module))
        found.append(
            Split(marker, module, sizes, tuple(_place(held, sizes, part, module) for part in range(len(sizes))))
        )
    return found


def _place(held: dict[str, Any], sizes: tuple[int, ...], part: int, module: str) -> tuple[str, int] | None:
    prefix = f"{module}." if module else ""
    for name, value in held.items():
        if type(value) in (list, tuple) and tuple(value) == sizes:
            return f"{prefix}{name}", part
    return next(
        ((f"{prefix}{name}", 0) for name, value in held.items() if type(value) is int and value == sizes[part]), None
    )


@contextmanager
def traced_splits(network: nn.Module, splits: Sequence[Split]) -> Iterator[None]:
    """While this lasts, calls that were marked go through their marker and slice."""
    if not splits:
        yield
        return
    with _Marked([network.get_submodule(split.marker) for split in splits]):
        yield


class _Calls(TorchFunctionMode):
    """found: of each call the module, the sizes, and whether the last of three axes is split, channels being axis 1 else."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.found: list[tuple[str, tuple[int, ...], bool]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        axis = _split_axis(function, args, kwargs or {})
        if axis is not None:
            sizes = tuple(int(part.shape[axis]) for part in result)
            self.found.append((self.inside[-1], sizes, axis != 1))
        return result


class _Marked(TorchFunctionMode):
    def __init__(self, markers: Sequence[nn.Module]) -> None:
        super().__init__()
        self._markers, self._count = markers, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        axis = _split_axis(function, args, kwargs or {})
        if axis is None:
            return function(*args, **(kwargs or {}))
        marker = self._markers[self._count % len(self._markers)]
        self._count += 1
        marked = marker(args[0])
        ends = _ends(
            marked.shape[axis], _given(args, kwargs or {}, 1, ("split_size_or_sections", "split_size", "split_sizes"))
        )
        if marked.ndim == 3 and axis == 1:
            # Of three axes the library takes the last one for the channels.
            return tuple(marked[..., None].narrow(1, start, end - start)[..., 0] for start, end in ends)
        return tuple(marked.narrow(axis, start, end - start) for start, end in ends)


def _split_axis(function: Any, args: Any, kwargs: Any) -> int | None:
    """The axis that a call splits, where that holds channels: axis 1, or the last of three."""
    if function not in _SPLITS or not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
        return None
    axis = int(_given(args, kwargs, 2, ("dim",)) or 0) % args[0].ndim
    return axis if axis == 1 or (axis == 2 and args[0].ndim == 3) else None


def _given(args: Any, kwargs: Any, position: int, names: Sequence[str]) -> Any:
    if len(args) > position:
        return args[position]
    return next((kwargs[name] for name in names if name in kwargs), None)


def _ends(width: int, given: Any) -> list[tuple[int, int]]:
    sizes = [min(given, width - start) for start in range(0, width, given)] if isinstance(given, int) else list(given)
    ends, start = [], 0
    for size in sizes:
        ends.append((start, start + size))
        start += size
    return ends
