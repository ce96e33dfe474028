"""Layers as plain data, so that one decomposition serves torch modules and ONNX nodes alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Outline:
    """A linear layer (no spatial axes) or a convolution, without its numbers.

    shape: of the weight, (out, in) or (out, in / groups, *kernel). pads: zeros before each spatial axis, then after each.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layer:
    """A layer of a network that could be factorized.

    weight: of the outline's shape, float64. bias: (out,) or None. input_shape: of one sample: (..., in) for a linear layer,
    (in, ...) for a convolution. calls: how often one sample goes through it. dtype: numpy's name for what the weight was.
    op: its class in torch, its operator in ONNX.
    """

    outline: Outline
    weight: np.ndarray
    bias: np.ndarray | None
    input_shape: tuple[int, ...]
    op: str
    calls: int = 1
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return self.outline.name

    @property
    def is_linear(self) -> bool:
        return not self.outline.kernel

    @property
    def parameters(self) -> int:
        return self.outline.parameters + self.bias_parameters

    @property
    def bias_parameters(self) -> int:
        return 0 if self.bias is None else len(self.bias)

    @property
    def macs(self) -> int:
        return self.macs_of((self.outline,))

    def macs_of(self, outlines: Sequence[Outline]) -> int:
        """Multiply-accumulates for one sample of layers that stand in the place of this one."""
        if self.is_linear:
            return self.calls * math.prod(self.input_shape[:-1]) * sum(part.parameters for part in outlines)
        total, size = 0, self.input_shape[1:]
        for part in outlines:
            size = output_size(part, size)
            total += math.prod(size) * part.parameters
        return self.calls * total


@dataclass(frozen=True)
class Piece:
    """One layer of a chain. weight: of the outline's shape. bias: on the last piece, where the whole layer had one."""

    outline: Outline
    weight: np.ndarray
    bias: np.ndarray | None = None


@dataclass(frozen=True)
class Survey:
    """layers: what can be factorized, in the network's order. whole: name to the reason why it cannot."""

    layers: tuple[Layer, ...]
    whole: dict[str, str] = field(default_factory=dict)


def output_size(part: Outline, size: Sequence[int]) -> tuple[int, ...]:
    """The spatial size that a convolution gives for one."""
    axes = len(part.kernel)
    return tuple(
        (size[axis] + part.pads[axis] + part.pads[axes + axis] - part.dilations[axis] * (part.kernel[axis] - 1) - 1)
        // part.strides[axis]
        + 1
        for axis in range(axes)
    )


def pointwise(name: str, width: int, channels: int, axes: int) -> Outline:
    """A 1 x 1 convolution, or a linear layer when there are no spatial axes."""
    return Outline(name, (width, channels, *(1,) * axes), (1,) * axes, (0,) * 2 * axes, (1,) * axes)
