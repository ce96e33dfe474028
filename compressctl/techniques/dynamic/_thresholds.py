"""Above which confidence an exit's answer stands: the cheapest thresholds that keep the answers, or the best that keep the cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from compressctl.sources.modules.early_exits import NEVER

ALWAYS = -1.0
_WEIGHTS = np.concatenate([[0.0], np.geomspace(0.02, 2_000, 140)])
"""Of a wrong answer, in units of the whole network's cost."""

_SWEEPS, _STEPS = 12, 6


@dataclass(frozen=True)
class Answers:
    """What exits say, on samples. sure: (samples, exits), between 0 and 1. right: (samples, exits + 1), how right each answer is, the whole network's last, between 0 and 1.
    cost: (exits + 1,), of a sample that leaves there, the whole network's last."""

    sure: np.ndarray
    right: np.ndarray
    cost: np.ndarray

    def taken(self, thresholds: Sequence[float]) -> np.ndarray:
        """(samples,): the exit of each sample, the number of exits for the whole network."""
        decided = np.concatenate([self.sure > np.asarray(thresholds), np.ones((len(self.sure), 1), bool)], 1)
        return np.asarray(decided.argmax(1))


@dataclass(frozen=True)
class Point:
    """thresholds: by exit. cost: the mean over samples. right: the mean over samples. error: the standard error of what is lost against the whole network's answers.
    shares: of the samples, by exit."""

    thresholds: tuple[float, ...]
    cost: float
    right: float
    error: float
    shares: tuple[float, ...]


def front(answers: Answers) -> list[Point]:
    """Thresholds that none of the others beat in both, from the dearest to the cheapest; the first leaves nowhere.

    For each weight of a wrong answer the thresholds are moved one by one to where cost and wrong answers are least together, until none moves: exact for one exit. Between those of
    two weights, which are the corners of the front, lie others.
    """
    found: dict[tuple[float, ...], Point] = {}
    corners = list(dict.fromkeys(_weighted(answers)))
    for thresholds in [*corners, *_between(corners)]:
        found.setdefault(thresholds, _point(answers, thresholds))
    ranked = sorted(found.values(), key=lambda point: (-point.right, point.cost))
    kept: list[Point] = []
    for point in ranked:
        if not kept or point.cost < kept[-1].cost:
            kept.append(point)
    whole = _point(answers, (NEVER,) * answers.sure.shape[1])
    return [whole, *(point for point in kept if point.cost < whole.cost)]


def cheapest(points: Sequence[Point], least_right: float, margin: float = 0.0) -> Point:
    """Of those that are right enough, by so many standard errors; the first point where none is. What was chosen among many on some samples loses more on others."""
    return min(
        (point for point in points if point.right - margin * point.error >= least_right),
        key=lambda point: point.cost,
        default=points[0],
    )


def best_within(points: Sequence[Point], most_cost: float) -> Point | None:
    return max((point for point in points if point.cost <= most_cost), key=lambda point: point.right, default=None)


def _weighted(answers: Answers) -> Iterator[tuple[float, ...]]:
    exits = answers.sure.shape[1]
    thresholds = [NEVER] * exits
    yield tuple(thresholds)
    for weight in _WEIGHTS[::-1]:
        price = answers.cost / answers.cost[-1] + weight * (1 - answers.right)
        for _ in range(_SWEEPS):
            before = list(thresholds)
            for exit_ in reversed(range(exits)):
                thresholds[exit_] = _least(answers, thresholds, exit_, price)
            if thresholds == before:
                break
        yield tuple(thresholds)


def _between(corners: Sequence[tuple[float, ...]]) -> Iterator[tuple[float, ...]]:
    """Steps from each to the next, where both say when every exit answers."""
    for first, second in pairwise(corners):
        if all(0 <= one <= 1 for one in (*first, *second)):
            for step in range(1, _STEPS):
                share = step / _STEPS
                yield tuple((1 - share) * one + share * other for one, other in zip(first, second, strict=True))


def _least(answers: Answers, thresholds: Sequence[float], exit_: int, price: np.ndarray) -> float:
    """The threshold of one exit with which the price is least, the others as they are."""
    reaches = ~(answers.sure[:, :exit_] > np.asarray(thresholds[:exit_])).any(1)
    without = [*thresholds[:exit_], NEVER, *thresholds[exit_ + 1 :]]
    goes_on = price[np.arange(len(price)), answers.taken(without)]
    order = np.argsort(-answers.sure[reaches, exit_], kind="stable")
    sure = answers.sure[reaches, exit_][order]
    gain = np.cumsum((goes_on[reaches] - price[reaches, exit_])[order])
    # Samples that are equally sure leave together.
    is_end = np.append(sure[1:] < sure[:-1], True) if len(sure) else np.zeros(0, bool)
    ends = np.flatnonzero(is_end & (gain > 0))
    if not len(ends):
        return NEVER
    last = ends[np.argmax(gain[ends])]
    return float((sure[last] + sure[last + 1]) / 2) if last + 1 < len(sure) else ALWAYS


def _point(answers: Answers, thresholds: tuple[float, ...]) -> Point:
    taken = answers.taken(thresholds)
    every = np.arange(len(taken))
    shares = np.bincount(taken, minlength=len(answers.cost)) / max(len(taken), 1)
    right = answers.right[every, taken]
    return Point(
        thresholds,
        float(answers.cost[taken].mean()),
        float(right.mean()),
        float((answers.right[:, -1] - right).std() / np.sqrt(max(len(right), 1))),
        tuple(shares.tolist()),
    )


def temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """What scores (n, classes) are divided by for their softmax to be as sure as it is right: the least cross-entropy. labels: (n,) classes.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.
    """
    from scipy.optimize import minimize_scalar

    def entropy(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        scaled = scaled - scaled.max(-1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(-1)) - scaled[np.arange(len(labels)), labels]).mean())

    found = minimize_scalar(entropy, bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))
