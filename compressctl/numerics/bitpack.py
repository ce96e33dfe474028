"""Codes of 1 to 8 bits in bytes, the low bits first.

Codes of 1, 2, 4 and 8 bits fill bytes. Others are split into planes that do: 3 bits into 2 and 1, 6 into 4 and 2, so that whatever
takes bytes apart needs to know powers of two alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_WHOLE = (8, 4, 2, 1)
"""Bits of which a whole number fills a byte."""


def code_bits(entries: int) -> int:
    """The fewest bits that tell so many entries apart, at least 1. Raises ValueError for more than 256."""
    if not 0 < entries <= 256:
        raise ValueError(f"{entries} entries do not fit into a byte")
    return max(1, (entries - 1).bit_length())


def planes(bits: int) -> tuple[int, ...]:
    """The widths of the planes that hold codes of that many bits, the low bits first: (2, 1) for 3, (4, 2) for 6."""
    if not 1 <= bits <= 8:
        raise ValueError(f"codes have 1 to 8 bits, not {bits}")
    return tuple(width for width in _WHOLE if bits & width)


def pack_planes(codes: np.ndarray, bits: int) -> list[np.ndarray]:
    """Codes of any shape, in C order, as one (bytes,) uint8 array per plane. Raises ValueError for codes that do not fit."""
    flat = np.asarray(codes).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >> bits):
        raise ValueError(f"codes from {flat.min()} to {flat.max()} do not fit into {bits} bits")
    flat = flat.astype(np.uint8)
    return [join_bits((flat >> np.uint8(shift)) & np.uint8((1 << width) - 1), width) for shift, width in _shifts(bits)]


def join_bits(codes: np.ndarray, width: int) -> np.ndarray:
    """uint8, the last axis shorter by 8 / width and filled up with zeros. width: 1, 2, 4 or 8."""
    each = 8 // width
    missing = -codes.shape[-1] % each
    full = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)]) if missing else codes
    groups = full.reshape(*full.shape[:-1], -1, each).astype(np.uint8)
    joined = np.zeros(groups.shape[:-1], np.uint8)
    for position in range(each):
        joined |= groups[..., position] << np.uint8(width * position)
    return joined


def split_bits(stored: np.ndarray, width: int) -> np.ndarray:
    """uint8, the last axis longer by 8 / width: the inverse of join_bits, its filling included."""
    each = 8 // width
    shifts = (width * np.arange(each)).astype(np.uint8)
    parts = (stored[..., None] >> shifts) & np.uint8((1 << width) - 1)
    return np.asarray(parts.reshape(*stored.shape[:-1], -1), np.uint8)


def _shifts(bits: int) -> Iterator[tuple[int, int]]:
    """(first bit, width) of each plane."""
    first = 0
    for width in planes(bits):
        yield first, width
        first += width
