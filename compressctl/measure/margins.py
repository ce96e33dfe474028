"""What share of decisions a file would change, told by how far it moves scores beside how far decisions are from other ones.

A count of changed decisions says little where few were seen: with one in a hundred changed, none of nine is seen changed nine
times in ten. How far scores move is known better. Of a decision with margin m (the winning score's distance from the next one), a file
that moves such distances to (1 + a) m + e, with e of root mean square s over n decisions, changes it with the chance P(T < -(1 + a) m / s), T of
Student's distribution with n degrees of freedom: the predictive distribution of a normal change with a variance that is known from n values. A
common scale a changes no decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import betaincinv, logit, stdtr

from compressctl.measure.class_scores import adds_up

MOST = 300
"""Decisions from which their changes are counted instead: where none of so many changed, with 95 % confidence under 1 % do ("rule of
three")."""

_RUNNERS_UP = 4
_LEAST_SHARE, _LEAST_SINGLE = 1e-7, 1e-6
"""Where shares of one, and single probabilities, end: float32 has no steps below, and what stands there tells no change."""

_SMALLEST_SCALE = 0.1
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Moved:
    """change: root mean square of what a file does to the winning score's distances from the next ones beside scaling them all, over that
    scale. In nats for shares and logits, else in the scores' unit. seen: the decisions that it was told from."""

    change: float
    seen: int


@dataclass
class Margins:
    """Decisions of one output, call by call. class_axis: of its scores; None for one probability each, which decides at 0.5."""

    class_axis: int | None
    decisions: int = 0
    _before: list[np.ndarray] = field(default_factory=list, repr=False)
    _after: list[np.ndarray] = field(default_factory=list, repr=False)
    _are_shares: bool = True

    def add(self, wanted: np.ndarray, found: np.ndarray | None = None) -> None:
        """Scores of one call, (n, ...): of the original, and of another file where there is one. Decisions between fewer than two classes are none."""
        classes = 2 if self.class_axis is None else wanted.shape[self.class_axis]
        if classes < 2 or wanted.size == 0:
            return
        self.decisions += wanted.size if self.class_axis is None else wanted.size // classes
        if self.decisions > MOST:
            self._before, self._after = [], []
            return
        found = wanted if found is None else found
        self._are_shares &= self.class_axis is None or adds_up(wanted, self.class_axis)
        before, after = self._rows(wanted), self._rows(found)
        best = _best(before)
        self._before.append(_padded(np.take_along_axis(before, best, axis=1)))
        self._after.append(_padded(np.take_along_axis(after, best, axis=1)))

    def _rows(self, values: np.ndarray) -> np.ndarray:
        """(decisions, classes) float64."""
        values = values.astype(np.float64)
        if self.class_axis is None:
            return np.stack([values.reshape(-1), 1 - values.reshape(-1)], axis=1)
        return np.moveaxis(values, self.class_axis, -1).reshape(-1, values.shape[self.class_axis])

    def _scores(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(decisions, 5) each: of the classes that win before, best first, NaN where there are fewer; the same ones after; and which tell a change."""
        if not self._before or self.decisions > MOST:
            return None
        before, after = np.concatenate(self._before), np.concatenate(self._after)
        tells = np.isfinite(before) & np.isfinite(after)
        if not self._are_shares:
            return before, after, tells
        least = _LEAST_SHARE if self.class_axis is not None else _LEAST_SINGLE
        tells &= (np.minimum(before, after) > least) & (
            np.maximum(before, after) < (1 + least if self.class_axis is not None else 1 - least)
        )
        return self._in_nats(before, least), self._in_nats(after, least), tells

    def _in_nats(self, shares: np.ndarray, least: float) -> np.ndarray:
        if self.class_axis is not None:
            return np.asarray(np.log(np.maximum(shares, least)))
        # Half of log(p / (1 - p)) on each side, so that their distance is all of it.
        return np.asarray(logit(np.clip(shares, least, 1 - least)) / 2)

    @property
    def of_original(self) -> tuple[float, ...] | None:
        """Of each decision that has one; None where there are none, or more than are told so."""
        scores = self._scores()
        if scores is None:
            return None
        distances = _distances(scores[0])
        near = distances[np.isfinite(distances).any(axis=1)]
        return tuple(map(float, np.nanmin(near, axis=1))) if len(near) else None

    @property
    def moved(self) -> Moved | None:
        """What the other file does to them; None where nothing tells."""
        scores = self._scores()
        if scores is None:
            return None
        before, after, tells = scores
        told = tells[:, :1] & tells[:, 1:]
        was, now = _distances(before)[told], _distances(after)[told]
        if not was.size:
            return None
        power = float(was @ was)
        scale = max(float(was @ now) / power, _SMALLEST_SCALE) if power > 0 else 1.0
        rest = now - scale * was
        return Moved(float(np.sqrt(np.mean(rest**2))) / scale, int(told.any(axis=1).sum()))


def _distances(scores: np.ndarray) -> np.ndarray:
    """(decisions, 4): of the first class from the next ones, NaN where there is none or no number."""
    with np.errstate(invalid="ignore"):
        found = scores[:, :1] - scores[:, 1:]
    return np.where(np.isfinite(found), found, np.nan)


def expected_churn(margins: Sequence[float], moved: Moved) -> float:
    """The share of decisions with these margins that changes.

    margins: in the unit of what moved them.
    """
    if moved.change <= 0 or not margins:
        return 0.0
    return float(np.mean(stdtr(moved.seen, -np.asarray(margins, dtype=np.float64) / moved.change)))


def most_churn(changed: int, decisions: int) -> float:
    """The largest share of which so few changes among so many decisions are still as likely as one in twenty. Source: Clopper and Pearson 1934."""
    if changed >= decisions:
        return 1.0
    return float(betaincinv(changed + 1, decisions - changed, _CONFIDENCE))


def _best(scores: np.ndarray) -> np.ndarray:
    """(decisions, up to 5): the classes with the highest scores, the highest first, of equals the first."""
    ranked = np.where(np.isnan(scores), -np.inf, scores)
    count = min(1 + _RUNNERS_UP, scores.shape[1])
    some = np.argpartition(-ranked, count - 1, axis=1)[:, :count] if count < scores.shape[1] else _all(ranked)
    some = np.sort(some, axis=1)
    order = np.argsort(-np.take_along_axis(ranked, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def _all(scores: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)


def _padded(scores: np.ndarray) -> np.ndarray:
    """(decisions, 5), NaN where there are fewer classes."""
    missing = 1 + _RUNNERS_UP - scores.shape[1]
    return np.pad(scores, ((0, 0), (0, missing)), constant_values=np.nan)
