"""What the channels of a tensor hold, added up over calls, and how much of them another tensor's noise drowns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChannelStatistics:
    """count, total, squares, low, high: (channels,) float64: how many values, their sum, the sum of their squares, their bounds."""

    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        return np.asarray(self.squares / self.count - (self.total / self.count) ** 2)

    @property
    def span(self) -> np.ndarray:
        return np.asarray(self.high - self.low)

    def added(self, other: ChannelStatistics) -> ChannelStatistics:
        """Of both; as one channel where their numbers differ."""
        one, two = (self, other) if len(self.count) == len(other.count) else (self._as_one(), other._as_one())
        return ChannelStatistics(
            one.count + two.count,
            one.total + two.total,
            one.squares + two.squares,
            np.minimum(one.low, two.low),
            np.maximum(one.high, two.high),
        )

    def _as_one(self) -> ChannelStatistics:
        count, total, squares = (part.sum(keepdims=True) for part in (self.count, self.total, self.squares))
        return ChannelStatistics(count, total, squares, self.low.min(keepdims=True), self.high.max(keepdims=True))


def channel_statistics(values: np.ndarray, axis: int | None) -> ChannelStatistics:
    """axis: of the channels, None where the tensor is one."""
    rows = channel_rows(values, axis).astype(np.float64)
    return ChannelStatistics(
        np.full(len(rows), float(rows.shape[1])),
        rows.sum(axis=1),
        np.einsum("ij,ij->i", rows, rows),
        rows.min(axis=1, initial=np.inf),
        rows.max(axis=1, initial=-np.inf),
    )


def channel_rows(values: np.ndarray, axis: int | None) -> np.ndarray:
    """(channels, values of each)."""
    return values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def noise_to_signal(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], axis: int | None) -> np.ndarray:
    """(channels,): squared difference over squared signal, all calls together; NaN of a channel that is zero throughout.

    A call whose result has another shape, or is no number, counts as all noise. Where calls differ in how many channels they have, as
    along an open axis, all are one.
    """
    if axis is not None and len({before.shape[axis] for before in wanted}) > 1:
        axis = None
    signal, noise = np.zeros(1), np.zeros(1)
    for before, after in zip(wanted, found, strict=True):
        was, now = channel_rows(before, axis).astype(np.float64), after.astype(np.float64)
        difference = channel_rows(now, axis) - was if now.shape == before.shape else was
        difference = np.where(np.isfinite(difference), difference, was)
        signal, noise = signal + np.sum(was**2, axis=1), noise + np.sum(difference**2, axis=1)
    return np.asarray(np.divide(noise, signal, out=np.full(noise.shape, np.nan), where=signal > 0))
