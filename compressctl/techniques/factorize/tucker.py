"""factorize.tucker: three convolutions in the place of one: fewer input channels, the kernel between few, all outputs again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from compressctl.core.model import Model
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.layer import Layer, Outline
from compressctl.numerics.evbmf import evbmf_rank
from compressctl.numerics.low_rank import unwhitened
from compressctl.numerics.tucker import Tucker, dropped_shares, hosvd, tucker2
from compressctl.techniques.factorize._factorize import factorize
from compressctl.techniques.factorize._pieces import pointwise
from compressctl.techniques.factorize._split import Rank, steps
from compressctl.techniques.factorize._splits import Way
from compressctl.techniques.factorize.params import TuckerParams


def apply(model: Model, params: TuckerParams, run: RunContext) -> StageResult:
    return factorize(model, params, run, lambda one: _ways(one.layer))


def _ways(layer: Layer) -> list[Way]:
    kernel = layer.outline.kernel
    return [Way(layer, "tucker", tucker_split, (1,) * len(kernel))] if math.prod(kernel) > 1 else []


@dataclass(frozen=True)
class TuckerSplit:
    """ranks are (output channels, input channels) of the kernel between.

    The error is that of the truncated HOSVD until a rank's weights were asked for, which HOOI refines, and theirs from then
    on; with whitening it is that of inputs whose neighbouring pixels are not correlated.
    Source: Kim et al. 2016, Compression of Deep CNNs for Fast and Low Power Mobile Applications, section 3.
    """

    layer: Layer
    whitened: np.ndarray
    factor: np.ndarray | None
    lost: np.ndarray
    scheme: str = "tucker"
    _refined: dict[Rank, Tucker] = field(default_factory=dict)

    @property
    def full_rank(self) -> Rank:
        return self.layer.outline.shape[:2]

    def ranks(self, round_to: int) -> Iterable[Rank]:
        out, channels = self.full_rank
        return ((p, q) for p in steps(out, round_to) for q in steps(channels, round_to))

    def outlines(self, rank: Rank) -> tuple[Outline, ...]:
        """Three, or two where one side keeps all its channels: its 1x1 is part of the core then."""
        whole = self.layer.outline
        axes = len(whole.kernel)
        core = Outline(f"{whole.name}.core", (*rank, *whole.kernel), whole.strides, whole.pads, whole.dilations)
        reduce = pointwise(f"{whole.name}.reduce", rank[1], whole.shape[1], axes)
        expand = pointwise(f"{whole.name}.expand", whole.shape[0], rank[0], axes)
        before = (reduce,) if rank[1] < whole.shape[1] else ()
        return (*before, core, *((expand,) if rank[0] < whole.shape[0] else ()))

    def error(self, rank: Rank) -> float:
        found = self._refined.get(rank)
        if found is None:
            return float(self.lost[rank])
        total = float(np.sum(np.square(self.whitened)))
        return max(0.0, 1.0 - float(np.sum(np.square(found.core))) / total) if total else 0.0

    def weights(self, rank: Rank) -> tuple[np.ndarray, ...]:
        if rank not in self._refined:
            self._refined[rank] = tucker2(self.whitened, (rank[0], rank[1]))
        found = self._refined[rank]
        right = found.right if self.factor is None else unwhitened(found.right, self.factor)
        core, sides = found.core, {"reduce": right.T, "expand": found.left}
        if rank[1] == self.full_rank[1]:
            core = np.einsum("pq...,sq->ps...", core, right)
        if rank[0] == self.full_rank[0]:
            core = np.einsum("tp,pq...->tq...", found.left, core)
        outlines = self.outlines(rank)
        parts = [(sides.get(part.name.rsplit(".", 1)[-1], core), part.shape) for part in outlines]
        return tuple(part.reshape(shape) for part, shape in parts)

    def evbmf(self) -> Rank:
        unfoldings = (self.layer.weight, self.layer.weight.swapaxes(0, 1))
        return tuple(max(1, evbmf_rank(unfolded.reshape(len(unfolded), -1))) for unfolded in unfoldings)


def tucker_split(layer: Layer, factor: np.ndarray | None) -> TuckerSplit:
    """factor: from `whitening`, (in, in); None for white inputs."""
    whitened = layer.weight if factor is None else np.einsum("ts...,sq->tq...", layer.weight, factor)
    return TuckerSplit(layer, whitened, factor, dropped_shares(hosvd(whitened)))
