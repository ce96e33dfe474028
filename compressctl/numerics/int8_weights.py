"""Scales of weights: per output channel, within what the processor's multiply-adds and the int32 bias can hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from compressctl.core.quant import TensorQuant
from compressctl.numerics.affine import SMALLEST_SCALE
from compressctl.numerics.grid import fit_grid, one_grid

Guard = Literal["pairs", "calibrated", "reduce_range", "off"]

_LARGEST = 127
_LARGEST_REDUCED = 64
_LARGEST_PAIR = 127
"""Two rounded codes sum to at most one more, 128; 128 x 255 = 32,640 fits the 16 bits of VPMADDUBSW, 129 x 255 does not."""

_LARGEST_SUM = 2**15 - 1
"""Of two products, in the 16 bits of VPMADDUBSW."""

_LARGEST_BIAS = 2**30
"""Half of int32's range, so that the accumulated products have the other half."""


@dataclass(frozen=True)
class PairsSeen:
    """The largest codes of a layer's inputs, columns in the order of `channel_rows`. alone: (columns,). together: (columns - 1,), of the sums of
    two neighbours in one row."""

    alone: np.ndarray
    together: np.ndarray


def quantize_weight(
    values: np.ndarray,
    axis: int,
    *,
    per_channel: bool,
    guard: Guard,
    goes_up: bool = False,
    seen: PairsSeen | None = None,
) -> TensorQuant:
    """Symmetric int8 for a weight of any rank whose output channels lie along axis.

    guard: "pairs" limits a channel only as far as two neighbouring products can overflow 16 bits; "calibrated" as far as they can with the
    inputs that were seen, without any as "pairs" does; "reduce_range" halves every channel's codes; "off" uses all of -127 .. 127. Scales are (channels,), or () when not per_channel. goes_up: codes
    may be the next above or below (AdaRound), not only the nearest.
    """
    rows = channel_rows(values, axis)
    largest = np.abs(rows).max(axis=1) if rows.shape[1] else np.zeros(len(rows), dtype=np.float32)
    limit = _LARGEST_REDUCED if guard == "reduce_range" else _LARGEST
    scale = largest / limit
    if guard in ("pairs", "calibrated"):
        limits = _LARGEST_PAIR - 1 if goes_up else _pair_limit(rows, largest)
        needed = largest_pair(rows) / limits
        if guard == "calibrated" and seen is not None:
            needed = np.minimum(needed, _needed_for(rows, seen, rounding=1.0 if goes_up else 0.5))
        scale = np.maximum(scale, needed)
    if not per_channel:
        scale = np.asarray(scale.max())
    scale = np.maximum(scale, SMALLEST_SCALE).astype(np.float32)
    return TensorQuant(
        dtype="int8",
        scale=scale,
        zero_point=np.zeros(scale.shape, dtype=np.int8),
        axis=axis if per_channel else None,
        quantized_min=-limit,
        quantized_max=limit,
    )


def _needed_for(rows: np.ndarray, seen: PairsSeen, rounding: float) -> np.ndarray:
    """(channels,): the least scales at which no two neighbouring products of one sign overflow with codes up to those that were seen.

    rounding: by how much a code may differ from the weight over its scale. Products of two signs cannot overflow.
    """
    if rows.shape[1] < 2:
        return np.zeros(len(rows), dtype=rows.dtype)
    first, second = seen.alone[:-1], seen.alone[1:]
    both = np.minimum(seen.together, first + second)
    room = _LARGEST_SUM - rounding * both
    needed = np.zeros(len(rows))
    for part in (np.maximum(rows, 0), np.maximum(-rows, 0)):
        left, right = part[:, :-1], part[:, 1:]
        # A linear function has its largest value in a corner: one of the two codes as large as it comes, the other with what is left of their sum.
        sums = np.maximum(
            left * np.minimum(first, both) + right * np.clip(both - first, 0, second),
            right * np.minimum(second, both) + left * np.clip(both - second, 0, first),
        )
        needed = np.maximum(needed, (np.where((left > 0) & (right > 0), sums, 0) / room).max(axis=1))
    return needed


def _pair_limit(rows: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """(channels,): what two neighbours' codes may sum to before they are rounded.

    Weights of one magnitude, and zeros, are exact at 64 + 64 = 128; at 127 they would be rounded up to it from 63.5.
    """
    is_exact = np.all((rows == 0) | (np.abs(rows) == largest[:, None]), axis=1)
    return np.where(is_exact, _LARGEST_PAIR + 1, _LARGEST_PAIR)


def narrow_weight(values: np.ndarray, axis: int, bits: int, *, per_channel: bool) -> TensorQuant:
    """Symmetric codes of fewer than 8 bits, -2^(bits - 1) .. 2^(bits - 1) - 1, on scales of least squared error.

    Their type is int8: with INT4 in the file ONNX Runtime 1.32 runs a product on floats between its Q and DQ, and OpenVINO 2026.4
    convolutions too, as `explain` shows; with INT8 both multiply integers. So few codes overflow nothing.
    Scales are (channels,), or () when not per_channel.
    """
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    grid = fit_grid(rows, bits, rows.shape[1], symmetric=True) if per_channel else one_grid(rows, bits, symmetric=True)
    scale = np.maximum(grid.scale[:, 0] if per_channel else grid.scale[0, 0], SMALLEST_SCALE).astype(np.float32)
    return TensorQuant(
        dtype="int8",
        scale=scale,
        zero_point=np.zeros(scale.shape, dtype=np.int8),
        axis=axis if per_channel else None,
        quantized_min=grid.low,
        quantized_max=grid.high,
    )


def fit_bias(weight: TensorQuant, activation: TensorQuant, bias: np.ndarray) -> TensorQuant:
    """The weight with scales raised where the bias would not fit int32 at the scale of the products.

    A channel of nearly zero weights has a tiny scale; its bias divided by it overflows, and the channel with it
    (onnxruntime issue 25278). Coarser codes cost such a channel nothing.
    """
    needed = np.abs(np.asarray(bias, dtype=np.float64).reshape(-1)) / (_LARGEST_BIAS * np.float64(activation.scale))
    if weight.axis is None:
        needed = np.asarray(needed.max(initial=0.0))
    scale = np.maximum(weight.scale, needed).astype(np.float32)
    return replace(weight, scale=scale)


def channel_rows(values: np.ndarray, axis: int) -> np.ndarray:
    """(channels, rest): each row one output channel's weights in the order in which kernels multiply them.

    For a convolution that is kernel position first, input channel innermost: ONNX Runtime and OpenVINO both lay integer
    convolutions out channels-last.
    """
    rows = np.moveaxis(values, axis, 0)
    return np.moveaxis(rows, 1, -1).reshape(len(rows), -1) if values.ndim > 2 else rows.reshape(len(rows), -1)


def largest_pair(rows: np.ndarray) -> np.ndarray:
    """(channels,): the largest sum of two neighbours of one sign, wherever kernels begin to count pairs."""
    if rows.shape[1] < 2:
        return np.zeros(len(rows), dtype=rows.dtype)
    positive, negative = np.maximum(rows, 0), np.maximum(-rows, 0)
    pairs = np.maximum(positive[:, :-1] + positive[:, 1:], negative[:, :-1] + negative[:, 1:])
    return np.asarray(pairs.max(axis=1))
