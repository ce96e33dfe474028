"""A histogram of a stream of values whose range is not known before the stream ends."""

from __future__ import annotations

import numpy as np

_HALF = 1024


class StreamingHistogram:
    """Counts in 2 x 1024 equal bins around zero, whose width doubles whenever a value falls outside.

    Doubling merges neighbouring bins exactly, so the result does not depend on the order of the stream, and memory does
    not grow with its length. The range is known to within a bin by counts and exactly by `low` and `high`.
    """

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf
        self._counts = np.zeros(2 * _HALF, dtype=np.int64)
        self._width = 0.0

    def extend(self, values: np.ndarray) -> None:
        """Widen the range to contain these values without counting them. NaN is an error: ValueError."""
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("the values hold NaN or infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._fit(max(abs(low), abs(high)))

    def add(self, values: np.ndarray) -> None:
        """Count values, any shape. Raises ValueError when one is NaN or infinite."""
        self.extend(values)
        self.count(values)

    def count(self, values: np.ndarray) -> None:
        """Count values that lie inside the range that `extend` has seen."""
        if self._width == 0.0:
            self._counts[_HALF] += values.size
            return
        bins = np.floor(values.ravel() * np.float64(1.0 / self._width)).astype(np.int32) + _HALF
        np.clip(bins, 0, 2 * _HALF - 1, out=bins)
        self._counts += np.bincount(bins, minlength=2 * _HALF)

    def trimmed(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts (int64) and edges (float64, one more) of the bins from the first to the last that is not empty.

        Raises ValueError when nothing was counted.
        """
        filled = np.flatnonzero(self._counts)
        if filled.size == 0:
            raise ValueError("nothing was counted")
        if self._width == 0.0:
            return np.array([self._counts.sum()]), np.array([0.0, 0.0])
        first, last = int(filled[0]), int(filled[-1])
        edges = (np.arange(first, last + 2) - _HALF) * self._width
        return self._counts[first : last + 1], edges

    def _fit(self, largest: float) -> None:
        if largest == 0.0:
            return
        if self._width == 0.0:
            # Powers of two make the bins of two streams comparable and doubling exact.
            self._width = float(2.0 ** np.ceil(np.log2(largest / (_HALF - 1))))
            return
        while largest >= self._width * (_HALF - 1):
            self._halve_resolution()

    def _halve_resolution(self) -> None:
        merged = self._counts.reshape(-1, 2).sum(axis=1)
        self._counts = np.zeros_like(self._counts)
        self._counts[_HALF // 2 : _HALF // 2 + _HALF] = merged
        self._width *= 2
