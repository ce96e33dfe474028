"""Which of the measured files is handed over."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressctl.recipe.schema import Prefer
from compressctl.search.document import Figures, Point
from compressctl.search.front import ROUNDING, gains, shortfalls, speed_of
from compressctl.search.request import Goal

_FEW = 30
"""Samples. What fewer say of their own error is rough as well."""


def choose(
    points: Sequence[Point], goal: Goal, limit_bytes: int | None, prefer: Prefer, *, is_judged: bool
) -> Point | None:
    """The best by preference of those that keep every limit, and of these first of those that keep the loss with its error to spare (`is_sure`), or lose
    half of it at most: the best of many by a figure that strays is seldom as good as that figure. Else, of those that keep the loss, the one that comes nearest. None
    where none keeps the loss, or none is smaller or faster than the original. Of equals the one with the name that comes first, whatever order they were tried in.

    is_judged: whether the loss is known at all. Where it is not, of those that keep the limits the least risky is chosen.
    """
    measured = [(point, figures) for point in points if (figures := point.figures) is not None and gains(figures)]
    missed = {point.name: shortfalls(figures, goal, limit_bytes, is_judged=is_judged) for point, figures in measured}
    holding = [(point, figures) for point, figures in measured if not missed[point.name]]
    if holding:
        risk = min(point.risk for point, _ in holding) if not is_judged else None
        able = [(point, figures) for point, figures in holding if risk is None or point.risk == risk]
        sure = [entry for entry in able if is_sure(entry[1], goal)] if is_judged else []
        return min(sure or able, key=lambda entry: (rank(entry[1], prefer), entry[0].name))[0]
    keeping = [point for point, _ in measured if "drop" not in missed[point.name]]
    return min(keeping, key=lambda point: (sum(missed[point.name].values()), point.name), default=None)


def is_sure(figures: Figures, goal: Goal) -> bool:
    """Whether the loss keeps the limit with a standard error to spare, two of them where few samples tell it. With few samples it may stray further than any limit, so
    half of that is enough."""
    if figures.loss is None:
        return False
    errors = 2 if figures.loss.samples < _FEW else 1
    strays = min(errors * (figures.loss.error or 0.0), goal.drop / 2)
    return figures.loss.value + strays <= goal.drop + ROUNDING


def rank(figures: Figures, prefer: Prefer) -> tuple[float, ...]:
    """Of a file by preference, whatever it loses: the less the better."""
    speed = speed_of(figures)
    faster = math.log(speed) if speed is not None and speed > 0 else 0.0
    smaller = math.log(figures.smaller) if figures.smaller > 0 else 0.0
    loss = figures.loss.value if figures.loss is not None else math.inf
    balanced = -(faster + smaller)
    match prefer:
        case "size":
            return (figures.total_bytes, balanced)
        case "speed":
            return (-faster, balanced)
        case "quality":
            return (loss, balanced)
        case _:
            return (balanced, loss)


def as_handed_over(point: Point) -> Point:
    """A point that was measured in full, with what that found in place of what was found briefly: what is chosen by from now on, at the
    next start too. Its size as well: which form of its kernels a file has is timed whenever it is written.

    The loss stays that of the validation split: nothing is chosen on the test split.
    """
    if point.figures is None or point.confirmed is None:
        return point
    of_file = {name: getattr(point.confirmed, name) for name in ("total_bytes", "smaller", "transport_bytes")}
    if point.confirmed.speed is None:
        return point.model_copy(update={"figures": point.figures.model_copy(update=of_file)})
    timed = {name: getattr(point.confirmed, name) for name in ("speed", "latency_ms", "is_noisy")}
    figures = point.figures.model_copy(update={**of_file, **timed})
    return point.model_copy(update={"briefly": point.briefly or point.figures.speed, "figures": figures})
