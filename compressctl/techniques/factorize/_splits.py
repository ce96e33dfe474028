"""Layers decomposed, each in the schemes that its stage asks for, with what calibration says about its inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from compressctl.core.model import Model
from compressctl.core.technique import RunContext
from compressctl.numerics.covariance import Covariance, evenly
from compressctl.numerics.low_rank import whitening
from compressctl.numerics.patches import output_positions, patches
from compressctl.techniques.factorize._layers import Layer
from compressctl.techniques.factorize._network import Network, calibration_batches
from compressctl.techniques.factorize._split import Split

_MOST_BYTES = 2**30
"""Of covariances in memory at once; layers beyond it wait for another pass over the calibration data."""

_ROWS_PER_ELEMENT = 64
"""Input vectors that are looked at for each of their elements: more would not move a singular value by a percent."""

_LEAST_ROWS = 50_000


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
        """Elements of the vectors whose covariance is wanted."""
        return self.layer.outline.shape[1] * math.prod(self.kernel)


def decomposed(
    network: Network, model: Model, ways: Sequence[Way], run: RunContext, damping: float | None
) -> dict[str, list[Split]]:
    """The splits of each layer by its name. damping: of whitening, None to take inputs as white."""
    found: dict[str, list[Split]] = {}
    done = 0
    for group in _groups(ways) if damping is not None else [ways]:
        factors = _factors(network, model, group, run, damping) if damping is not None else [None] * len(group)
        for way, factor in zip(group, factors, strict=True):
            found.setdefault(way.layer.name, []).append(way.make(way.layer, factor))
            done += 1
            run.events.progress("decomposing layers", done, len(ways))
    return found


def _groups(ways: Sequence[Way]) -> Iterator[list[Way]]:
    """Ways whose covariances fit into memory together."""
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


def _factors(
    network: Network, model: Model, ways: Sequence[Way], run: RunContext, damping: float
) -> list[np.ndarray | None]:
    assert run.data is not None, "the plan gives calibration data to a technique that needs it"
    covariances = [Covariance(way.size) for way in ways]
    names = list(dict.fromkeys(way.layer.name for way in ways))
    total, seen = len(run.data.split("calibration")), 0
    for given in network.inputs(names, calibration_batches(model, run)):
        size = next(iter(given.values()))[0].shape[0]
        for way, covariance in zip(ways, covariances, strict=True):
            share = max(_LEAST_ROWS, _ROWS_PER_ELEMENT * way.size) * size / (total * way.layer.calls)
            for array in given.get(way.layer.name, []):
                covariance.add(_vectors(way, array, math.ceil(share)))
        seen += size
        run.events.progress("looking at the inputs of layers", min(seen, total), total)
    return [whitening(covariance.matrix, damping) for covariance in covariances]


def _vectors(way: Way, given: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the vectors that the layer multiplies, in the order of the way's matrix."""
    if way.layer.is_linear:
        rows = given.reshape(-1, given.shape[-1])
        chosen: np.ndarray = rows[evenly(len(rows), most)]
        return chosen
    whole = way.layer.outline
    axes = len(whole.kernel)
    # Along an axis that the way does not look through every place counts, and zeros beyond the edge say nothing.
    looks = [size == reach for size, reach in zip(way.kernel, whole.kernel, strict=True)]
    strides = [step if look else 1 for step, look in zip(whole.strides, looks, strict=True)]
    pads = [(whole.pads[axis], whole.pads[axes + axis]) if look else (0, 0) for axis, look in enumerate(looks)]
    places = output_positions(given, way.kernel, strides, pads, whole.dilations)
    found = patches(given, way.kernel, strides, pads, whole.dilations, evenly(places, most))
    return found.swapaxes(1, 2).reshape(len(found), -1)
