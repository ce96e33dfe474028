"""Arrays as unsigned numbers of the same bits, and the pieces that codings make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[Any]
"""(rows, columns) of uint8, uint16, uint32 or uint64."""

UNSIGNED = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}


def planes(values: Bits, is_float: bool) -> list[NDArray[np.uint8]]:
    """Byte 0, byte 1, ... of all elements, lowest first, each (rows, columns).

    is_float: the sign goes behind the fraction first, so that the highest byte of a float32 is its exponent.
    """
    size = values.dtype.itemsize
    turned = values << values.dtype.type(1) | values >> values.dtype.type(8 * size - 1) if is_float else values
    parts = turned.astype(UNSIGNED[size], copy=False)[..., None].view(np.uint8)
    return [np.ascontiguousarray(parts[..., position]) for position in range(size)]


def join_planes(parts: list[NDArray[np.uint8]], is_float: bool) -> Bits:
    joined = np.stack(parts, axis=-1).view(UNSIGNED[len(parts)])[..., 0]
    one, rest = joined.dtype.type(1), joined.dtype.type(8 * len(parts) - 1)
    return joined >> one | joined << rest if is_float else joined


def nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows, columns) to (rows, 2 * columns): low four bits, high four bits, as ONNX packs 4-bit numbers."""
    return np.stack([values & 15, values >> 4], axis=-1).reshape(len(values), -1)


def join_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(values[:, ::2] | values[:, 1::2] << 4, np.uint8)
