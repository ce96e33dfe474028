"""factorize.cp: a sum of products of vectors: a 1 x 1 convolution, a kernel for each channel alone, and 1 x 1 again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from compressctl.core.model import Model
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.layer import Layer, Outline
from compressctl.numerics.cp import composed, cp, full_rank
from compressctl.numerics.evbmf import evbmf_rank
from compressctl.numerics.low_rank import unwhitened
from compressctl.techniques.factorize._factorize import factorize
from compressctl.techniques.factorize._pieces import pointwise
from compressctl.techniques.factorize._split import Rank, rounded_up
from compressctl.techniques.factorize._splits import Way
from compressctl.techniques.factorize.params import CpParams


def apply(model: Model, params: CpParams, run: RunContext) -> StageResult:
    return factorize(model, params, run, lambda one: _ways(one.layer, split_kernel=params.split_kernel))


def _ways(layer: Layer, *, split_kernel: bool) -> list[Way]:
    kernel = layer.outline.kernel
    if math.prod(kernel) == 1:
        return []
    return [Way(layer, "cp", partial(cp_split, split_kernel=split_kernel), (1,) * len(kernel))]


_GRID = 10
"""Ranks that are looked at: unlike a singular value decomposition, each needs a decomposition of its own."""


@dataclass(frozen=True)
class CpSplit:
    """The kernel stays whole (depthwise k x k), or is a product of vectors too (k x 1, then 1 x k).

    With whitening the error is that of inputs whose neighbouring pixels are not correlated.
    Source: Lebedev et al. 2015, Speeding-up CNNs Using Fine-tuned CP-Decomposition, section 3.
    """

    layer: Layer
    tensor: np.ndarray
    factor: np.ndarray | None
    scheme: str = "cp"
    _found: dict[int, tuple[tuple[np.ndarray, ...], float]] = field(default_factory=dict)

    @property
    def full_rank(self) -> Rank:
        return (full_rank(self.tensor.shape),)

    def ranks(self, round_to: int) -> Iterable[Rank]:
        """Evenly spaced in their logarithm, up to the one that costs what the layer costs."""
        per_rank = sum(part.parameters for part in self.outlines((1,)))
        most = max(1, min(self.full_rank[0], self.layer.outline.parameters // per_rank))
        grid = np.geomspace(max(1, most / 32), most, _GRID)
        return sorted({(rounded_up(round(rank), most, round_to),) for rank in grid})

    def outlines(self, rank: Rank) -> tuple[Outline, ...]:
        whole, width = self.layer.outline, rank[0]
        axes = len(whole.kernel)
        first = pointwise(f"{whole.name}.reduce", width, whole.shape[1], axes)
        last = pointwise(f"{whole.name}.expand", whole.shape[0], width, axes)
        if self.tensor.ndim == 3:
            kernel = (width, 1, *whole.kernel)
            geometry = (whole.strides, whole.pads, whole.dilations)
            return first, Outline(f"{whole.name}.kernel", kernel, *geometry, groups=width), last
        return first, *(self._along(axis, width) for axis in range(axes)), last

    def _along(self, axis: int, width: int) -> Outline:
        """The depthwise kernel of one spatial axis."""
        whole = self.layer.outline
        axes = len(whole.kernel)

        def only(values: tuple[int, ...], otherwise: int) -> tuple[int, ...]:
            return tuple(value if place % axes == axis else otherwise for place, value in enumerate(values))

        return Outline(
            f"{whole.name}.axis{axis}",
            (width, 1, *only(whole.kernel, 1)),
            only(whole.strides, 1),
            only(whole.pads, 0),
            only(whole.dilations, 1),
            groups=width,
        )

    def error(self, rank: Rank) -> float:
        return self._at(rank[0])[1]

    def weights(self, rank: Rank) -> tuple[np.ndarray, ...]:
        out, channels, *kernels = self._at(rank[0])[0]
        inner = channels if self.factor is None else unwhitened(channels, self.factor)
        shapes = [part.shape for part in self.outlines(rank)]
        ordered = [inner.T, *(kernel.T for kernel in kernels), out]
        return tuple(factor.reshape(shape) for factor, shape in zip(ordered, shapes, strict=True))

    def evbmf(self) -> Rank:
        """The larger of the ranks of both channel unfoldings: no sum of fewer products has unfoldings of those ranks."""
        unfoldings = (self.layer.weight, self.layer.weight.swapaxes(0, 1))
        return (max(1, *(evbmf_rank(unfolded.reshape(len(unfolded), -1)) for unfolded in unfoldings)),)

    def _at(self, rank: int) -> tuple[tuple[np.ndarray, ...], float]:
        if rank not in self._found:
            factors = cp(self.tensor, rank)
            total = float(np.sum(np.square(self.tensor)))
            lost = float(np.sum(np.square(self.tensor - composed(factors))))
            self._found[rank] = factors, lost / total if total else 0.0
        return self._found[rank]


def cp_split(layer: Layer, factor: np.ndarray | None, *, split_kernel: bool = False) -> CpSplit:
    """factor: from `whitening`, (in, in); None for white inputs. split_kernel: a vector for each spatial axis."""
    whitened = layer.weight if factor is None else np.einsum("ts...,sq->tq...", layer.weight, factor)
    kernel = layer.outline.kernel
    shape = kernel if split_kernel else (math.prod(kernel),)
    return CpSplit(layer, whitened.reshape(*layer.outline.shape[:2], *shape), factor)
