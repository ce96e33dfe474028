"""Layers as plain data, alike for torch modules and ONNX nodes, and what their weights are multiplied with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.numerics.patches import output_positions, patches


@dataclass(frozen=True)
class Outline:
    """A linear layer (no spatial axes) or a convolution, without its numbers.

    name: of the module or node. shape: of the weight, (out, in) or (out, in / groups, *kernel). pads: zeros before each spatial
    axis, then after each. auto_pad: ONNX's, where the zeros depend on the input's size: SAME_UPPER or SAME_LOWER.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1
    auto_pad: str = ""

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    def zeros_around(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """What is put before and after each spatial axis of an input of these sizes."""
        axes = len(self.kernel)
        if not self.auto_pad:
            return list(zip(self.pads[:axes], self.pads[axes:], strict=True))
        pads = []
        for size, reach, step, stride in zip(sizes, self.kernel, self.dilations, self.strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + (reach - 1) * step + 1 - size, 0)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if self.auto_pad == "SAME_UPPER" else (more, less))
        return pads

    def output_size(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The spatial size that a convolution gives for one."""
        axes = zip(sizes, self.kernel, self.strides, self.zeros_around(sizes), self.dilations, strict=True)
        return tuple(
            (size + sum(pads) - step * (reach - 1) - 1) // stride + 1 for size, reach, stride, pads, step in axes
        )

    def rows(self, inputs: np.ndarray, pick: Callable[[int], np.ndarray]) -> np.ndarray:
        """The vectors that the weight is multiplied with: (rows, kernel positions, channels of all groups).

        inputs: a batch as the layer is given it. pick: which of so many rows are wanted, in order.
        """
        if not self.kernel:
            flat = inputs.reshape(-1, 1, inputs.shape[-1])
            chosen = pick(len(flat))
            return flat if len(chosen) == len(flat) else flat[chosen]
        batch = inputs if inputs.ndim == len(self.shape) else inputs[None]
        geometry = (self.kernel, self.strides, self.zeros_around(batch.shape[2:]), self.dilations)
        return patches(batch, *geometry, rows=pick(output_positions(batch, *geometry)))


@dataclass(frozen=True)
class Layer:
    """Something that computes with a weight: a linear layer, a convolution, attention's projection, a table of embeddings.

    name: of the weight. op: its class in torch, its operator in ONNX. weight: of the outline's shape, outputs first however it
    is stored. bias: (out,) where it has one of its own. input_shape: of one sample, where it was asked for: (..., in) for a
    linear layer, (in, ...) for a convolution. calls: how often one sample goes through it.
    """

    name: str
    op: str
    outline: Outline
    weight: np.ndarray
    bias: np.ndarray | None = None
    input_shape: tuple[int, ...] = ()
    calls: int = 1

    @property
    def owner(self) -> str:
        """The module or node that computes with the weight."""
        return self.outline.name

    @property
    def names(self) -> tuple[str, ...]:
        """What a pattern may call it."""
        return self.name, self.owner, self.op

    @property
    def is_linear(self) -> bool:
        return not self.outline.kernel

    @property
    def by_position(self) -> np.ndarray:
        """The weight as (out, kernel positions, in), float32, a copy: inputs that one position reads are neighbours."""
        return by_position(self.weight).astype(np.float32, copy=False)

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
            size = part.output_size(size)
            total += math.prod(size) * part.parameters
        return self.calls * total


def by_position(values: np.ndarray) -> np.ndarray:
    """(out, in, *kernel) as (out, kernel positions, in), a copy."""
    flat = values.reshape(*values.shape[:2], -1)
    # Where there is one position or one channel nothing moves: without a copy this would be the parameter's own memory.
    return np.array(np.moveaxis(flat, 1, 2), order="C")


def from_positions(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The inverse of by_position, a copy. shape: (out, in, *kernel)."""
    return np.ascontiguousarray(np.moveaxis(values, 2, 1)).reshape(shape)
