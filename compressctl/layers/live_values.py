"""How many bytes of a network's values are alive at once: what a runtime needs beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FOLDED = {
    torch.ops.aten.native_batch_norm.default,
    torch.ops.aten._native_batch_norm_legit_no_training.default,
}
"""Beside what works element by element: what a runtime makes part of the layer before."""


@dataclass(frozen=True)
class LiveValues:
    """What one call computes. sizes: bytes of each value. inside: by value, the module that computes it, "" where that is the network itself. given: by module, the value that it gives.
    alive: (moments, values), whether a value has to be kept then.

    Values that nothing reads any more make room, and what works element by element writes over what it is the last to read, as runtimes do. The network's inputs and
    outputs stay to the end. What a kernel needs for itself is not known.
    """

    sizes: np.ndarray
    inside: tuple[str, ...]
    given: Mapping[str, int]
    alive: np.ndarray

    def peak(self, sizes: np.ndarray | None = None) -> float:
        """Bytes at the moment when most are alive. sizes: other ones than the values have."""
        return float((self.alive @ (self.sizes if sizes is None else sizes)).max(initial=0.0))


def live_values(network: nn.Module, inputs: Sequence[Tensor]) -> LiveValues:
    """Of a network on these inputs."""
    recorder = _Recorder(network)
    with ExitStack() as hooks, torch.no_grad(), recorder:
        for name, module in network.named_modules():
            if name:
                hooks.enter_context(module.register_forward_pre_hook(partial(recorder.enter, name)))
                hooks.enter_context(module.register_forward_hook(partial(recorder.leave, name), always_call=True))
        recorder.begin(inputs)
        recorder.end(network(*inputs))
    return recorder.found(len(inputs))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every value is held until the end, so that no two of them have one place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {_place(tensor) for tensor in (*network.parameters(), *network.buffers())}
        self._held: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        self._sizes: list[int] = []
        self._inside: list[str] = []
        self._born: list[int] = []
        self._last_read: list[int] = []
        self._overwrites: dict[int, int] = {}
        self._given: dict[str, int] = {}
        self._modules: list[str] = []
        self._moment = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self._moment += 1
        read = self._known((args, kwargs))
        for number in read:
            self._last_read[number] = self._moment
        new = self._add(made)
        if new and (torch.Tag.pointwise in func.tags or func in _FOLDED):
            same = [number for number in read if self._sizes[number] == self._sizes[new[0]]]
            self._overwrites |= {new[0]: min(same)} if same else {}
        return made

    def begin(self, inputs: Sequence[Tensor]) -> None:
        self._add(inputs)

    def enter(self, name: str, *_: Any) -> None:
        self._modules.append(name)

    def leave(self, name: str, _: nn.Module, __: Any, output: Any) -> None:
        if self._modules and self._modules[-1] == name:
            self._modules.pop()
        known = self._known(output)
        if known:
            self._given[name] = known[0]

    def end(self, outputs: Any) -> None:
        for number in self._known(outputs):
            self._last_read[number] = self._moment

    def found(self, kept: int) -> LiveValues:
        """kept: how many values the network was given."""
        born, dies = np.array(self._born, int), np.array(self._last_read, int)
        dies[:kept] = self._moment
        for over, under in self._overwrites.items():
            if dies[under] == born[over]:
                dies[under] -= 1
        moments = np.arange(self._moment + 1)[:, None]
        alive = (born <= moments) & (moments <= dies)
        # A moment at which nothing is born is not the worst.
        worth = np.unique(born)
        return LiveValues(
            np.array(self._sizes, float), tuple(self._inside), dict(self._given), alive[worth].astype(np.float32)
        )

    def _known(self, values: Any) -> list[int]:
        places = dict.fromkeys(map(_place, _tensors(values)))
        return [self._numbers[place] for place in places if place in self._numbers]

    def _add(self, values: Any) -> list[int]:
        found = []
        for tensor in _tensors(values):
            place = _place(tensor)
            if place in self._weights or place in self._numbers:
                continue
            self._numbers[place] = len(self._sizes)
            found.append(len(self._sizes))
            self._held.append(tensor)
            self._sizes.append(tensor.untyped_storage().nbytes())
            self._inside.append(self._modules[-1] if self._modules else "")
            self._born.append(self._moment)
            self._last_read.append(self._moment)
        return found


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
