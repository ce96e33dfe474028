"""How far figures of all samples together would be off with other samples: from what single calls bring to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

_FEWEST, _MOST = 5, 10_000
"""Calls between which a spread is told; of more the sums are not kept."""


@dataclass
class Spread:
    """Sums of each call: of the original's squares, of the other's, of products, of decisions and of equal ones."""

    calls: int = 0
    _sums: list[tuple[float, ...]] = field(default_factory=list, repr=False)

    def add(self, signal: float, power: float, product: float, decisions: float, equal: float) -> None:
        """Of one call."""
        self.calls += 1
        if self.calls <= _MOST:
            self._sums.append((signal, power, product, decisions, equal))
        else:
            self._sums = []

    def of_cosine(self) -> float | None:
        """Standard error of the cosine of all values; None where calls are too few, or too many."""
        if not _FEWEST <= self.calls <= _MOST:
            return None
        signal, power, product = self._without_each()[:, :3].T
        known = (signal > 0) & (power > 0)
        return _jackknife(product[known] / np.sqrt(signal[known] * power[known]))

    def of_churn(self, decisions: int, equal: int) -> float | None:
        """Standard error of the share of changed ones among these decisions: what single ones would have, or calls that stray more; None without any."""
        if decisions == 0:
            return None
        share = (decisions - equal + 0.5) / (decisions + 1)
        alone = math.sqrt(share * (1 - share) / decisions)
        if not _FEWEST <= self.calls <= _MOST:
            return alone
        others = self._without_each()[:, 3:]
        known = others[:, 0] > 0
        return max(alone, _jackknife(1 - others[known, 1] / others[known, 0]) or 0.0)

    def _without_each(self) -> np.ndarray:
        """(calls, 5): sums over all calls but one."""
        sums = np.asarray(self._sums, dtype=np.float64)
        rest: np.ndarray = sums.sum(axis=0) - sums
        return rest


def _jackknife(without_each: np.ndarray) -> float | None:
    """Standard error of a figure, from what it is without each call. Source: Efron and Stein 1981, The jackknife estimate of variance."""
    count = len(without_each)
    if count < _FEWEST:
        return None
    return float(np.sqrt((count - 1) * np.mean((without_each - without_each.mean()) ** 2)))
