"""How often each symbol occurs, as a coder uses it and in few bytes.

A frequency is kept to a quarter of a power of two: a code that is a few percent wrong about a symbol loses some thousandths
of a bit, and exact counts of 256 symbols would take twice the bytes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from compressctl.packed.cursor import Cursor
from compressctl.packed.errors import damaged

BITS = 14
TOTAL = 1 << BITS
"""Frequencies of a table add up to this."""

_STEPS = 4
_LEVELS = BITS * _STEPS + 1
_SIZES = np.array([0, *(math.floor(2 ** (level / _STEPS) + 0.5) for level in range(_LEVELS))], np.int64)
_RICE_BITS = 3


def levels_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """counts: (symbols,), from 0 on, not all 0. Returns (symbols,) levels: 0 for what never occurs, else about
    1 + 4 log2 of the share of TOTAL."""
    shares = counts * (TOTAL / counts.sum())
    levels = 1 + np.round(np.log2(np.maximum(shares, 1)) * _STEPS).astype(np.int64)
    return np.where(counts > 0, np.minimum(levels, _LEVELS), 0)


def frequencies(levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(symbols,) whole numbers that add up to TOTAL, at least 1 where the level is not 0. Integer arithmetic alone, so that
    every machine finds the same."""
    sizes = _SIZES[levels]
    scaled = np.where(sizes > 0, np.maximum(sizes * TOTAL // sizes.sum(), 1), 0)
    order = np.argsort(-scaled, kind="stable")
    position, missing = 0, TOTAL - int(scaled.sum())
    while missing:
        # Rounding down leaves a few to give to the most frequent; the least share of 1 may have taken too many.
        symbol = order[position % len(order)]
        change = missing if missing > 0 else -min(-missing, int(scaled[symbol]) // 2)
        scaled[symbol] += change
        missing -= change
        position += 1
    return scaled


def write_levels(levels: NDArray[np.int64]) -> bytes:
    """Differences of neighbours, which are small, in Rice codes; one byte tells the code's parameter."""
    steps = np.diff(levels, prepend=0)
    mapped = np.where(steps < 0, -2 * steps - 1, 2 * steps)
    width = min(range(1 << _RICE_BITS), key=lambda bits: int((mapped >> bits).sum()) + bits * len(mapped))
    written = "".join("1" * int(value >> width) + "0" + _low_bits(int(value), width) for value in mapped)
    padded = written + "0" * (-len(written) % 8)
    return bytes([width]) + int(padded, 2).to_bytes(len(padded) // 8, "big")


def _low_bits(value: int, width: int) -> str:
    return format(value & ((1 << width) - 1), f"0{width}b") if width else ""


def read_levels(source: Cursor, symbols: int) -> NDArray[np.int64]:
    """Raises PackedError for what write_levels does not write."""
    width = source.byte()
    if width >= 1 << _RICE_BITS:
        raise damaged("a table of frequencies has an impossible width")
    levels, level, left, bits = np.zeros(symbols, np.int64), 0, 0, 0

    def bit() -> int:
        nonlocal left, bits
        if not left:
            bits, left = source.byte(), 8
        left -= 1
        return bits >> left & 1

    for symbol in range(symbols):
        mapped = 0
        while bit():
            mapped += 1
            if mapped > 2 * _LEVELS:
                raise damaged("a table of frequencies has an impossible step")
        for _ in range(width):
            mapped = 2 * mapped + bit()
        level += -(mapped + 1) // 2 if mapped % 2 else mapped // 2
        if not 0 <= level <= _LEVELS:
            raise damaged("a table of frequencies has an impossible level")
        levels[symbol] = level
    if not levels.any():
        raise damaged("a table of frequencies is empty")
    return levels
