"""Codebooks for an entropy coder: an index costs as many bits as its share of all indices says.

Source: Chou, Lookabaugh & Gray 1989, "Entropy-Constrained Vector Quantization", section III.
"""

from __future__ import annotations

import numpy as np

_ITERATIONS = 50
_SETTLED = 1e-5
_CHUNK = 1 << 16


def entropy_codes(
    values: np.ndarray,
    codebook: np.ndarray,
    bit_price: float,
    importance: np.ndarray | None = None,
    *,
    fixed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and codebook that together lower importance x squared error + bit_price x bits, from a codebook on.

    values: (n,). codebook: float64, at most 256 entries. bit_price: squared error that one bit is worth. fixed: (entries,)
    boolean, entries that keep their value, as a zero must. Returns (n,) uint8 indices and the entries that are still used;
    fixed ones stay. Empirical entropy is what an adaptive coder comes near to.
    """
    heavy = np.ones(values.size) if importance is None else importance.reshape(-1).astype(np.float64)
    held = np.zeros(codebook.size, bool) if fixed is None else fixed
    entries, shares = codebook.astype(np.float64), np.full(codebook.size, 1 / codebook.size)
    before = np.inf
    for _ in range(_ITERATIONS):
        index, cost = _assigned(values, heavy, entries, bit_price * bits(shares))
        place = index.astype(np.intp)
        count = np.bincount(place, minlength=entries.size)
        weight = np.bincount(place, heavy, entries.size)
        moment = np.bincount(place, heavy * values, entries.size)
        moves = ~held & (weight > 0)
        entries = np.where(moves, moment / np.where(weight > 0, weight, 1), entries)
        kept = held | (count > 0)
        entries, held, shares = entries[kept], held[kept], count[kept] / values.size
        if cost >= (1 - _SETTLED) * before:
            break
        before = cost
    index, _ = _assigned(values, heavy, entries, bit_price * bits(shares))
    return index, entries


def bits(shares: np.ndarray) -> np.ndarray:
    """What an index of that share of all costs; one that never occurs more than any other."""
    least = shares[shares > 0].min(initial=1.0)
    return np.asarray(-np.log2(np.where(shares > 0, shares, least / 2)))


def entropy_bits(indices: np.ndarray) -> float:
    """Bits of all indices together under their own distribution."""
    counts = np.bincount(indices.reshape(-1))
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def _assigned(
    values: np.ndarray, heavy: np.ndarray, entries: np.ndarray, price: np.ndarray
) -> tuple[np.ndarray, float]:
    """(n,) uint8 indices of least cost, and that cost."""
    index, total = np.empty(values.size, np.uint8), 0.0
    for begin in range(0, values.size, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        best = np.full(values[part].size, np.inf)
        chosen = index[part]
        for position, (entry, extra) in enumerate(zip(entries, price, strict=True)):
            cost = heavy[part] * (values[part] - entry) ** 2 + extra
            better = cost < best
            best = np.where(better, cost, best)
            chosen[better] = position
        total += float(best.sum())
    return index, total
