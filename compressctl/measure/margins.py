"""What share of decisions a file would change, told by how far it moves scores beside how far decisions are from other ones.

A count of changed decisions says little where few were seen: with one in a hundred changed, none of nine is seen changed nine
times in ten. How far scores move is known well even then. Of a decision with margin m (the winning score's distance from the
next one, in nats), where n decisions showed changes of such distances with root mean square s, the chance to change is
P(T < -m / s) with Student's t of n degrees of freedom: the predictive distribution of a normal change with a variance that is
known from n values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import logit, stdtr

from compressctl.measure.class_scores import adds_up

MOST = 300
"""Decisions from which their changes are counted instead: where none of so many changed, with 95 % confidence under 1 % do ("rule of
three")."""

_RUNNERS_UP = 4
_LEAST_SHARE = 1e-12


@dataclass
class Margins:
    """Decisions of one output, call by call. class_axis: of its scores; None for one probability each, which decides at 0.5."""

    class_axis: int | None
    decisions: int = 0
    _margins: list[np.ndarray] = field(default_factory=list, repr=False)
    _changes: list[np.ndarray] = field(default_factory=list, repr=False)

    def add(self, wanted: np.ndarray, found: np.ndarray | None = None) -> None:
        """Scores of one call, (n, ...): of the original, and of another file where there is one. Those with a value that is no finite number are left
        out."""
        count = wanted.size if self.class_axis is None else wanted.size // wanted.shape[self.class_axis]
        self.decisions += count
        if self.decisions > MOST:
            self._margins, self._changes = [], []
            return
        is_share = self.class_axis is None or adds_up(wanted, self.class_axis)
        before = self._scores(wanted, is_share=is_share)
        after = before if found is None else self._scores(found, is_share=is_share)
        both = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
        before, after = before[both], after[both]
        best = _runners_up(before)
        was, now = _distances(before, best), _distances(after, best)
        self._margins.append(was[:, 0])
        self._changes.append(now - was)

    def _scores(self, values: np.ndarray, *, is_share: bool) -> np.ndarray:
        """(decisions, classes) float64, in nats."""
        values = values.astype(np.float64)
        if self.class_axis is None:
            odds = logit(np.clip(values.reshape(-1), _LEAST_SHARE, 1 - _LEAST_SHARE))
            return np.stack([odds, np.zeros_like(odds)], axis=1)
        scores = np.moveaxis(values, self.class_axis, -1).reshape(-1, values.shape[self.class_axis])
        return np.log(np.maximum(scores, _LEAST_SHARE)) if is_share else scores

    @property
    def of_original(self) -> tuple[float, ...] | None:
        """Nats, of each decision; None where there are none, or more than are told so."""
        return tuple(map(float, np.concatenate(self._margins))) if self._margins and self.decisions <= MOST else None

    @property
    def change(self) -> float | None:
        """Root mean square of how far the other file moved the winning score against its runners-up, in nats."""
        if self.of_original is None:
            return None
        return float(np.sqrt(np.mean(np.concatenate(self._changes) ** 2)))


def expected_churn(margins: Sequence[float], change: float, seen: int) -> float:
    """The share of decisions with these margins that changes, where `seen` decisions were moved by `change` (root mean square).

    margins, change: nats. seen: at least 1.
    """
    if change == 0:
        return 0.0
    return float(np.mean(stdtr(seen, -np.asarray(margins, dtype=np.float64) / change)))


def _runners_up(scores: np.ndarray) -> np.ndarray:
    """(decisions, 1 + k): the classes with the highest scores, the highest first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, : 1 + _RUNNERS_UP]


def _distances(scores: np.ndarray, best: np.ndarray) -> np.ndarray:
    """(decisions, k): of the first of these classes from the others."""
    chosen: np.ndarray = np.take_along_axis(scores, best, axis=1)
    distances: np.ndarray = chosen[:, :1] - chosen[:, 1:]
    return distances
