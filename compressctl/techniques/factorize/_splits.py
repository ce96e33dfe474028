"""Layers decomposed, each in the schemes that its stage asks for, with what calibration says about its inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from compressctl.core.feeds import feeds
from compressctl.core.technique import RunContext
from compressctl.layers.layer import Layer, Outline
from compressctl.layers.network import Inputs, Network
from compressctl.numerics.low_rank import whitening
from compressctl.numerics.second_moments import Picked, SecondMoments, evenly
from compressctl.techniques.factorize._split import Split

_MOST_BYTES = 2**30
"""Of moments in memory at once; layers beyond it wait for another pass over the calibration data."""

_ROWS_PER_ELEMENT = 64
"""Input vectors that are looked at for each of their elements: more would not move a singular value by a percent."""

_LEAST_ROWS = 50_000
_BATCH = 32


class MakeSplit(Protocol):
    def __call__(self, layer: Layer, factor: np.ndarray | None) -> Split: ...


@dataclass(frozen=True)
class Way:
    """One decomposition of one layer. kernel: how much of a convolution's kernel its whitening looks through."""

    layer: Layer
    scheme: str
    make: MakeSplit
    kernel: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Elements of the vectors whose moments are wanted."""
        return self.looked_through.parameters // self.looked_through.shape[0]

    @property
    def looked_through(self) -> Outline:
        """The layer with that much of its kernel. Along other axes every place counts, and zeros beyond the edge say nothing."""
        whole = self.layer.outline
        looks = [size == reach for size, reach in zip(self.kernel, whole.kernel, strict=True)]
        strides = tuple(step if look else 1 for step, look in zip(whole.strides, looks, strict=True))
        pads = tuple(pad if look else 0 for pad, look in zip(whole.pads, looks * 2, strict=True))
        return replace(whole, shape=(*whole.shape[:2], *self.kernel), strides=strides, pads=pads)


def decomposed(network: Network, ways: Sequence[Way], run: RunContext, damping: float | None) -> dict[str, list[Split]]:
    """The splits of each layer by its module or node. damping: of whitening, None to take inputs as white."""
    found: dict[str, list[Split]] = {}
    done = 0
    for group in _groups(ways) if damping is not None else [ways]:
        factors = _factors(network, group, run, damping) if damping is not None else [None] * len(group)
        for way, factor in zip(group, factors, strict=True):
            found.setdefault(way.layer.owner, []).append(way.make(way.layer, factor))
            done += 1
            run.events.progress("decomposing layers", done, len(ways))
    return found


def _groups(ways: Sequence[Way]) -> Iterator[list[Way]]:
    """Ways whose moments fit into memory together."""
    group: list[Way] = []
    size = 0
    for way in ways:
        needed = 8 * way.size**2
        if group and size + needed > _MOST_BYTES:
            yield group
            group, size = [], 0
        group.append(way)
        size += needed
    if group:
        yield group


def _factors(network: Network, ways: Sequence[Way], run: RunContext, damping: float) -> list[np.ndarray | None]:
    assert run.data is not None, "the plan gives calibration data to a technique that needs it"
    split = run.data.split("calibration")
    moments = [SecondMoments(way.size) for way in ways]
    total, batch, seen = len(split), 0, 0

    def batches() -> Iterator[Inputs]:
        nonlocal batch, seen
        for feed in feeds(split, network.signature, _BATCH):
            batch = len(next(iter(feed.inputs.values())))
            yield feed.inputs
            seen += batch
            run.events.progress("looking at the inputs of layers", min(seen, total), total)

    def see(name: str, inputs: np.ndarray) -> None:
        for way, seen_of in zip(ways, moments, strict=True):
            if way.layer.name == name:
                share = max(_LEAST_ROWS, _ROWS_PER_ELEMENT * way.size) * batch / (total * way.layer.calls)
                picked = Picked(partial(evenly, most=math.ceil(share)), batch)
                rows = way.looked_through.rows(inputs, picked)
                seen_of.add(rows.swapaxes(1, 2).reshape(len(rows), -1).astype(np.float64), picked.samples)

    network.watch(list(dict.fromkeys(way.layer.name for way in ways)), batches(), see)
    return [whitening(each.matrices()[0], damping) for each in moments]
