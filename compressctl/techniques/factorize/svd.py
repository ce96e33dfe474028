"""factorize.svd: two layers of a low rank in the place of one, from a matrix that the weight is reshaped to in one of two ways."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from compressctl.core.model import Model
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.layer import Layer, Outline
from compressctl.numerics.evbmf import evbmf_rank
from compressctl.numerics.low_rank import Decomposition, decompose, dropped_shares, low_rank
from compressctl.techniques.factorize._factorize import factorize
from compressctl.techniques.factorize._pieces import pointwise
from compressctl.techniques.factorize._split import Rank, steps
from compressctl.techniques.factorize._splits import Way
from compressctl.techniques.factorize.params import SvdParams


def apply(model: Model, params: SvdParams, run: RunContext) -> StageResult:
    return factorize(model, params, run, lambda one: ways_of(one.layer, one.conv or "auto"))


def ways_of(layer: Layer, conv: str) -> list[Way]:
    kernel = layer.outline.kernel
    if layer.is_linear:
        return [Way(layer, "channel", ChannelSplit.of)]
    if conv == "skip":
        return []
    spatial = [Way(layer, "spatial", SpatialSplit.of, (kernel[0], 1))] if len(kernel) == 2 and min(kernel) > 1 else []
    channel = [Way(layer, "channel", ChannelSplit.of, kernel)]
    if conv == "spatial":
        return spatial or channel
    return channel if conv == "channel" else [*spatial, *channel]


@dataclass(frozen=True)
class _MatrixSplit:
    """lost: by rank, the share of the squares that is lost."""

    layer: Layer
    decomposition: Decomposition
    lost: np.ndarray

    @classmethod
    def of(cls, layer: Layer, factor: np.ndarray | None) -> Self:
        """factor: from `whitening`, square, of the matrix's columns; None for white inputs."""
        found = decompose(cls.matrix(layer.weight), factor)
        return cls(layer, found, dropped_shares(found.values))

    @staticmethod
    def matrix(weight: np.ndarray) -> np.ndarray:
        """The weight as the matrix that is decomposed."""
        raise NotImplementedError

    @property
    def full_rank(self) -> Rank:
        return (len(self.decomposition.values),)

    def ranks(self, round_to: int) -> Iterable[Rank]:
        return ((number,) for number in steps(self.full_rank[0], round_to))

    def error(self, rank: Rank) -> float:
        return float(self.lost[rank[0]])

    def evbmf(self) -> Rank:
        return (max(1, evbmf_rank(self.matrix(self.layer.weight))),)


@dataclass(frozen=True)
class ChannelSplit(_MatrixSplit):
    """out x (in k k): the layer with fewer outputs, then a linear or 1 x 1 layer. Output errors are exact.

    Source: Zhang et al. 2016, Accelerating Very Deep Convolutional Networks, section 3.1.
    """

    scheme: str = "channel"

    def outlines(self, rank: Rank) -> tuple[Outline, ...]:
        whole = self.layer.outline
        reduce = Outline(
            f"{whole.name}.reduce", (rank[0], *whole.shape[1:]), whole.strides, whole.pads, whole.dilations
        )
        return reduce, pointwise(f"{whole.name}.expand", whole.shape[0], rank[0], len(whole.kernel))

    def weights(self, rank: Rank) -> tuple[np.ndarray, ...]:
        left, right = low_rank(self.decomposition, rank[0])
        reduce, expand = self.outlines(rank)
        return right.reshape(reduce.shape), left.reshape(expand.shape)

    @staticmethod
    def matrix(weight: np.ndarray) -> np.ndarray:
        """(out, in * kernel)."""
        return weight.reshape(len(weight), -1)


@dataclass(frozen=True)
class SpatialSplit(_MatrixSplit):
    """(in k) x (out k): a k x 1 convolution, then a 1 x k one.

    The error is exact for white inputs. With whitening it is that of inputs that are not correlated along rows.
    Source: Jaderberg, Vedaldi and Zisserman 2014, Speeding up CNNs with Low Rank Expansions, section 2.1 (scheme 2).
    """

    scheme: str = "spatial"

    def outlines(self, rank: Rank) -> tuple[Outline, ...]:
        whole = self.layer.outline
        (out, channels, height, width), (top, left, bottom, right) = whole.shape, whole.pads
        vertical = Outline(
            f"{whole.name}.vertical",
            (rank[0], channels, height, 1),
            (whole.strides[0], 1),
            (top, 0, bottom, 0),
            (whole.dilations[0], 1),
        )
        horizontal = Outline(
            f"{whole.name}.horizontal",
            (out, rank[0], 1, width),
            (1, whole.strides[1]),
            (0, left, 0, right),
            (1, whole.dilations[1]),
        )
        return vertical, horizontal

    def weights(self, rank: Rank) -> tuple[np.ndarray, ...]:
        left, right = low_rank(self.decomposition, rank[0])
        vertical, horizontal = self.outlines(rank)
        out, _, _, width = horizontal.shape
        return right.reshape(vertical.shape), left.reshape(out, width, 1, rank[0]).transpose(0, 3, 2, 1)

    @staticmethod
    def matrix(weight: np.ndarray) -> np.ndarray:
        """(out, in, height, width) as (out * width, in * height)."""
        out, channels, height, width = weight.shape
        return weight.transpose(0, 3, 1, 2).reshape(out * width, channels * height)
