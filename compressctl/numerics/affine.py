"""Affine quantization of arrays: real = scale * (code - zero_point)."""

from __future__ import annotations

import ml_dtypes
import numpy as np

SMALLEST_SCALE = np.float32(1e-8)
"""Below it a scale's reciprocal and its product with another scale leave float32's comfortable range."""


def asymmetric(low: float, high: float, quantized_min: int = 0, quantized_max: int = 255) -> tuple[np.float32, int]:
    """Scale and zero point that cover low .. high, with 0.0 on a code exactly.

    The range is widened to contain zero, so that padding and rectified values are free of error. Returns a float32 scale
    > 0 and a zero point in quantized_min .. quantized_max. Raises ValueError when a bound is not finite or low > high.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks", section 3 (nudged zero point).
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"no range from {low} to {high}")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = max(np.float32((high - low) / (quantized_max - quantized_min)), SMALLEST_SCALE)
    zero_point = int(np.clip(np.rint(quantized_min - low / float(scale)), quantized_min, quantized_max))
    return scale, zero_point


def quantize(
    values: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    dtype: str,
    low: int | None = None,
    high: int | None = None,
) -> np.ndarray:
    """Codes of dtype: round(values / scale) + zero_point, half to even, saturated to low .. high (the dtype's range if None).

    scale and zero_point broadcast against values. Rounding matches ONNX QuantizeLinear.
    """
    limits = ml_dtypes.iinfo(np.dtype(dtype))
    codes = np.rint(values / scale) + np.asarray(zero_point, dtype=np.float32)
    codes = np.clip(codes, limits.min if low is None else low, limits.max if high is None else high)
    return np.asarray(codes, dtype=dtype)


def dequantize(codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """float32 values of the codes, as ONNX DequantizeLinear computes them."""
    return np.asarray(
        (codes.astype(np.int32) - np.asarray(zero_point, dtype=np.int32)) * np.asarray(scale), dtype=np.float32
    )


def along(values: np.ndarray, axis: int | None, ndim: int) -> np.ndarray:
    """Per-channel values, shape (channels,), reshaped to broadcast along `axis` of an array with ndim dimensions."""
    if axis is None:
        return values
    return values.reshape([-1 if dim == axis % ndim else 1 for dim in range(ndim)])
