"""Codebooks of a given shape: evenly spaced entries, and powers of two."""

from __future__ import annotations

import numpy as np

from compressctl.numerics.kmeans import nearest

_SHARES = np.linspace(1.0, 0.3, 36)
"""Shares of the whole range that are tried: the fewer the entries, the more clipping pays."""


def uniform(values: np.ndarray, clusters: int, importance: np.ndarray | None = None) -> np.ndarray:
    """Evenly spaced entries, ascending float64, over the part of the values' range that costs least."""
    low, high = float(values.min()), float(values.max())
    tried = [np.linspace(share * low, share * high, clusters) for share in _SHARES]
    return min(tried, key=lambda entries: squared_error(values, entries, importance))


def powers_of_two(values: np.ndarray, clusters: int, importance: np.ndarray | None = None) -> np.ndarray:
    """Plus and minus powers of two with neighbouring exponents, ascending float64; a zero where the count is odd.

    Products with such weights are shifts. Source: Zhou et al. 2017, "Incremental Network Quantization", equation 2; which
    exponent is the largest is tried instead of computed.
    """
    largest = float(np.abs(values).max())
    if largest == 0:
        return np.zeros(1)
    top = int(np.floor(np.log2(largest)))
    tried = [_signed_powers(exponent, clusters) for exponent in (top + 1, top, top - 1)]
    return min(tried, key=lambda entries: squared_error(values, entries, importance))


def _signed_powers(top: int, clusters: int) -> np.ndarray:
    sizes = 2.0 ** (top - np.arange(max(1, clusters // 2)))
    return np.sort(np.concatenate([-sizes, sizes, [0.0] if clusters % 2 else []]))


def rounded(codebook: np.ndarray, bits: int) -> np.ndarray:
    """Entries in 16 bits (float16) or 8 (a step of the largest / 127); 32 gives float32. Equal entries become one."""
    if bits == 32:
        return np.unique(codebook.astype(np.float32)).astype(np.float64)
    if bits == 16:
        return np.unique(codebook.astype(np.float16)).astype(np.float64)
    largest = float(np.abs(codebook).max(initial=0.0))
    if largest == 0:
        return np.zeros(1)
    step = np.float32(largest / 127)
    return np.unique(np.rint(codebook / step).astype(np.float32) * step).astype(np.float64)


def squared_error(values: np.ndarray, codebook: np.ndarray, importance: np.ndarray | None = None) -> float:
    """The sum of squared distances to the nearest entry, each weighted with its importance."""
    error = (values - codebook[nearest(values, codebook)]) ** 2
    return float((error if importance is None else error * importance).sum())
