"""Which range of an activation to give codes to, from a histogram of its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from compressctl.numerics.histogram import StreamingHistogram

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]

_SHRINKS = np.geomspace(1.0, 1 / 64, 48)
"""Shares of a bound that the searching methods try: each 9 % below the last, down to a sixty-fourth."""


def minmax(histogram: StreamingHistogram) -> tuple[float, float]:
    """Everything that was seen."""
    return histogram.low, histogram.high


def percentile(histogram: StreamingHistogram, percent: float = 99.999) -> tuple[float, float]:
    """The range between the two tails of (100 - percent) / 2 % each, at a bin's resolution and inside minmax."""
    counts, edges = histogram.trimmed()
    cumulative = np.cumsum(counts) / counts.sum()
    tail = (1 - percent / 100) / 2
    low = edges[np.searchsorted(cumulative, tail, side="right")]
    high = edges[np.searchsorted(cumulative, 1 - tail, side="left") + 1]
    return max(float(low), histogram.low), min(float(high), histogram.high)


def mse(histogram: StreamingHistogram, levels: int = 256) -> tuple[float, float]:
    """The range with the least mean squared error of rounding inside and clipping outside."""
    return _search(histogram, lambda counts, edges, low, high: _squared_error(counts, edges, low, high, levels))


def entropy(histogram: StreamingHistogram, levels: int = 256) -> tuple[float, float]:
    """The range whose quantized distribution is nearest to the original in Kullback-Leibler divergence.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017; both ends shrink together here, so that the method serves
    asymmetric codes too.
    """
    return _search(histogram, lambda counts, edges, low, high: _divergence(counts, edges, low, high, levels))


def swish_low(high: float, levels: int = 256) -> float:
    """From where on x needs codes, up to `high`, that only x * sigmoid(x) reads: that product is nearly 0 far below zero.

    The product changes there by at most what rounding changes all others by in the mean, step / sqrt(12). Not by least squared error:
    what clipping changes has one sign in all channels, and adds up. -10 to -1.28, where x * sigmoid(x) is least.
    """
    lows = np.linspace(-1.28, -10.0, 437)
    product = -lows / (1 + np.exp(-lows))
    step = (max(high, 0.0) - lows) / (levels - 1)
    return float(lows[np.argmax((product <= step / np.sqrt(12)) | (lows == lows[-1]))])


def find_range(histogram: StreamingHistogram, method: RangeMethod, percent: float = 99.999) -> tuple[float, float]:
    """low, high of that method. Raises ValueError when the histogram is empty."""
    if method == "percentile":
        return percentile(histogram, percent)
    return _METHODS[method](histogram)


def _search(
    histogram: StreamingHistogram, loss: Callable[[np.ndarray, np.ndarray, float, float], float]
) -> tuple[float, float]:
    """The least loss over both bounds, searched in turn: one end often has a tail that the other has not."""
    counts, edges = histogram.trimmed()
    shares = counts / counts.sum()
    low, high = histogram.low, histogram.high
    for _ in range(2):
        high = min(histogram.high * _SHRINKS, key=lambda bound: loss(shares, edges, low, max(bound, low)))
        low = min(histogram.low * _SHRINKS, key=lambda bound: loss(shares, edges, min(bound, high), high))
    # A bound beside zero shrinks out of what was seen where all of that lies on one side of zero.
    inside = np.clip([min(low, high), high], histogram.low, histogram.high)
    return float(inside[0]), float(inside[1])


def _squared_error(shares: np.ndarray, edges: np.ndarray, low: float, high: float, levels: int) -> float:
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / (levels - 1)
    clipped = np.clip(centres, low, high)
    # Rounding spreads an error evenly over one step: step^2 / 12 in the mean, whatever the bin's width.
    return float(np.sum(shares * ((centres - clipped) ** 2 + step**2 / 12)))


def _divergence(shares: np.ndarray, edges: np.ndarray, low: float, high: float, levels: int) -> float:
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return 0.0
    inside = np.clip(centres, low, high)
    codes = np.rint((inside - low) / (high - low) * (levels - 1)).astype(np.int64)
    reference = np.bincount(codes, weights=shares, minlength=levels)
    # What the codes give back: each code's mass spread evenly over the bins that had any and lay inside.
    filled = shares > 0
    within = filled & (centres >= low) & (centres <= high)
    mass = np.bincount(codes[within], weights=shares[within], minlength=levels)
    spread = np.bincount(codes[within], minlength=levels)
    model = np.zeros_like(shares)
    model[within] = (mass / np.maximum(spread, 1))[codes[within]]
    target = np.zeros_like(shares)
    target[within] = shares[within]
    outliers = reference - mass
    for code in np.flatnonzero(outliers > 0):
        edge_bins = np.flatnonzero(within & (codes == code))
        if edge_bins.size == 0:
            return float("inf")
        target[edge_bins[0 if code == 0 else -1]] += outliers[code]
    kept = target > 0
    total = model.sum()
    if total <= 0:
        return float("inf")
    return float(np.sum(target[kept] * np.log(target[kept] / np.maximum(model[kept] / total, 1e-12))))


_METHODS: dict[str, Callable[[StreamingHistogram], tuple[float, float]]] = {
    "minmax": minmax,
    "mse": mse,
    "entropy": entropy,
}
