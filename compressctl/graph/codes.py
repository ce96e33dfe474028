"""The integers that stand for a graph's constants under a quantization plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np

from compressctl.core.quant import TensorQuant
from compressctl.numerics.affine import along, dequantize, quantize

_MOST_AT_ONCE = 1 << 20
"""Numbers of a weight that are rounded at a time, each of which takes some more while it is."""


def weight_codes(values: np.ndarray, quant: TensorQuant) -> np.ndarray:
    """The codes of a weight, shape of values, dtype of the plan."""
    codes = np.empty(values.shape, np.dtype(quant.dtype))
    for place, part in _parts(values.shape, quant):
        codes[place] = _codes(values[place], part)
    return codes


def weight_values(values: np.ndarray, quant: TensorQuant) -> np.ndarray:
    """What the runtime computes with instead of values: float32, the same shape."""
    found = np.empty(values.shape, np.float32)
    for place, part in _parts(values.shape, quant):
        scale, zero_point = (spread(each, part, values[place].shape) for each in (part.scale, part.zero_point))
        found[place] = dequantize(_codes(values[place], part), scale, zero_point)
    return found


def _codes(values: np.ndarray, quant: TensorQuant) -> np.ndarray:
    scale, zero_point = spread(quant.scale, quant, values.shape), spread(quant.zero_point, quant, values.shape)
    return quantize(values, scale, zero_point, quant.dtype, quant.quantized_min, quant.quantized_max)


def _parts(shape: Sequence[int], quant: TensorQuant) -> Iterator[tuple[tuple[slice, ...], TensorQuant]]:
    """Where each part of a large tensor lies, with its plan; blocks stay whole."""
    size = math.prod(shape)
    along_blocks = None if quant.block is None or quant.axis is None else quant.axis % len(shape)
    among = [axis for axis in range(len(shape)) if axis != along_blocks]
    if size <= _MOST_AT_ONCE or not among:
        yield (), quant
        return
    axis = max(among, key=lambda axis: shape[axis])
    step = max(1, _MOST_AT_ONCE * shape[axis] // size)
    for start in range(0, shape[axis], step):
        taken = slice(start, start + step)
        if along_blocks is not None:
            place = (slice(None),) * axis + (taken,)
        else:
            place = (taken,) if quant.axis is not None and quant.axis % len(shape) == axis else ()
        scale, point = (part[place] if np.size(part) > 1 else part for part in (quant.scale, quant.zero_point))
        yield (slice(None),) * axis + (taken,), replace(quant, scale=scale, zero_point=point)


def dequantize_codes(codes: np.ndarray, quant: TensorQuant) -> np.ndarray:
    """What stored codes stand for: float32, their shape, as a DequantizeLinear computes it."""
    scale, point = (spread(part, quant, codes.shape) for part in (quant.scale, quant.zero_point))
    values = (codes.astype(np.float32) - point.astype(np.float32)) * scale.astype(np.float32)
    return np.asarray(values, np.float32)


def spread(part: np.ndarray, quant: TensorQuant, shape: Sequence[int]) -> np.ndarray:
    """A scale or zero point of a plan so that it broadcasts against a tensor of that shape; each block's is repeated."""
    part = np.asarray(part)
    if quant.block is None or quant.axis is None:
        return along(part, quant.axis, len(shape))
    repeated = np.repeat(part, quant.block, axis=quant.axis)
    return repeated[tuple(slice(size) for size in shape)]


def range_of(quant: TensorQuant) -> tuple[float, float]:
    """The least and the largest number that has a code, of a tensor with one scale."""
    limits = ml_dtypes.iinfo(np.dtype(quant.dtype))
    scale, point = float(np.asarray(quant.scale).item()), int(np.asarray(quant.zero_point).item())
    return (limits.min - point) * scale, (limits.max - point) * scale


def bias_scale(activation: TensorQuant, weight: TensorQuant) -> np.ndarray:
    """float32, shape of the weight's scale: what one step of the int32 accumulator is worth.

    Source: Jacob et al. 2018, section 2.4. Runtimes add the codes without rescaling, so the scale must be this product.
    """
    return (np.asarray(activation.scale, dtype=np.float32) * np.asarray(weight.scale, dtype=np.float32)).astype(
        np.float32
    )


def bias_codes(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int32 codes (channels,) of a bias of any broadcastable shape, at a scale of shape (channels,) or ()."""
    flat = values.reshape(-1).astype(np.float64)
    if scale.ndim:
        flat = np.broadcast_to(flat, scale.shape)
    return quantize(flat, scale.astype(np.float64), np.zeros(()), "int32")


def stored_as(quant: TensorQuant, dtype: str) -> TensorQuant:
    """The same 8-bit numbers as the other 8-bit type: codes and zero point shifted by 128, real values untouched."""
    if quant.dtype == dtype or {quant.dtype, dtype} != {"uint8", "int8"}:
        return quant
    shift = 128 if dtype == "uint8" else -128
    zero_point = (np.asarray(quant.zero_point, dtype=np.int16) + shift).astype(dtype)
    return replace(quant, dtype=dtype, zero_point=zero_point, quantized_min=None, quantized_max=None)
