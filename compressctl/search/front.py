"""Which files no other one beats, which keep what was asked, and how near the others come."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compressctl.measure.speed_words import is_wide
from compressctl.search.document import Figures, Limit, Nearest, Point
from compressctl.search.request import Goal

ROUNDING = 1e-9

_SAME_SIZE = 1.005
"""Times smaller that is no gain yet."""


def speed_of(figures: Figures) -> float | None:
    """The ratio, or the lower end of an interval that is too wide for one: what a budget counts. Where the file is for another machine, what is
    foretold of it there."""
    if figures.on_target is not None:
        return figures.on_target.times_faster
    speed = figures.speed
    if speed is None:
        return None
    return speed.low if is_wide(speed.low, speed.high) else speed.ratio


def gains(figures: Figures) -> bool:
    """Whether it is smaller or faster than the original at all, beyond what another writing of the same file or another timing would show."""
    if figures.smaller > _SAME_SIZE:
        return True
    if figures.on_target is not None:
        return (figures.on_target.times_faster or 0.0) > 1
    return figures.speed is not None and figures.speed.low > 1


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other one dominates: at least as good in size, speed and loss, and better in one. In the given order.

    A figure that is not known is no better than any, and no worse than another that is not known. Of equals the first stays.
    """
    known = [(point, _costs(point.figures)) for point in points if point.figures is not None]
    kept = []
    for place, (point, costs) in enumerate(known):
        beaten = any(
            _dominates(other, costs) or (other == costs and before < place)
            for before, (_, other) in enumerate(known)
            if before != place
        )
        if not beaten:
            kept.append(point)
    return kept


def _costs(figures: Figures) -> tuple[float, float, float]:
    """All the less the better."""
    speed = speed_of(figures)
    return (
        float(figures.total_bytes),
        math.inf if speed is None else -speed,
        math.inf if figures.loss is None else figures.loss.value,
    )


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def shortfalls(figures: Figures, goal: Goal, limit_bytes: int | None, *, is_judged: bool) -> dict[str, float]:
    """By the limit that a file misses, by how much: logarithms of ratios for size and speed, of the loss the part beyond the
    limit over the limit (one point where that is less). Empty where all hold. A figure that is not known misses by infinity.

    is_judged: whether the loss counts; where nothing can judge it, it does not.
    """
    found: dict[str, float] = {}
    if is_judged:
        lost = math.inf if figures.loss is None else figures.loss.value - goal.drop
        if lost > ROUNDING:
            found["drop"] = lost / max(goal.drop, 1.0)
    if limit_bytes is not None and figures.total_bytes > limit_bytes:
        found["size"] = math.log(figures.total_bytes / max(limit_bytes, 1))
    if goal.speedup is not None:
        speed = speed_of(figures)
        if speed is None or speed < goal.speedup - ROUNDING:
            found["speedup"] = math.inf if speed is None or speed <= 0 else math.log(goal.speedup / speed)
    return found


def nearest(points: Sequence[Point], goal: Goal, limit_bytes: int | None, *, is_judged: bool) -> tuple[Nearest, ...]:
    """For each limit, the file that comes nearest to it among those that keep all others: what stands in the way, and how far."""
    found = []
    for name in ("drop", "speedup", "size"):
        only = [
            (missed[name], point)
            for point in points
            if point.figures is not None
            and set(missed := shortfalls(point.figures, goal, limit_bytes, is_judged=is_judged)) == {name}
            and math.isfinite(missed[name])
        ]
        if only:
            _, point = min(only, key=lambda entry: (entry[0], entry[1].name))
            assert point.figures is not None
            found.append(_would_do(name, point, point.figures, limit_bytes, goal))
    return tuple(found)


def _would_do(name: str, point: Point, figures: Figures, limit_bytes: int | None, goal: Goal) -> Nearest:
    if name == "drop":
        assert figures.loss is not None
        needed = figures.loss.value
        words = f"if {amount(needed, figures.loss.unit)} could be lost instead of {goal.drop:g}"
    elif name == "speedup":
        needed = speed_of(figures) or 0.0
        words = f"if {needed:.2f}x as fast were enough instead of {goal.speedup:g}x"
    else:
        needed = float(figures.total_bytes)
        words = f"if it could take {figures.total_bytes:,} bytes instead of {limit_bytes or 0:,}"
    return Nearest(point=point.name, limit=name, needed=needed, words=words)


def amount(loss: float, unit: str) -> str:
    """As in "0.56 points", "1.2 %"."""
    shown = f"{loss:.2f}" if abs(loss) >= 0.005 or loss == 0 else "less than 0.01"
    return f"{shown} {unit}".strip()


def limits(goal: Goal, limit_bytes: int | None, unit: str, *, is_judged: bool) -> tuple[Limit, ...]:
    """What was asked, in words."""
    found = []
    if is_judged:
        found.append(Limit(name="drop", asked=goal.drop, words=f"at most {amount(goal.drop, unit)} lost"))
    if goal.speedup is not None:
        found.append(Limit(name="speedup", asked=goal.speedup, words=f"at least {goal.speedup:g}x as fast"))
    if limit_bytes is not None:
        times = f" ({goal.smaller:g}x smaller)" if goal.smaller is not None else ""
        found.append(Limit(name="size", asked=limit_bytes, words=f"at most {limit_bytes:,} bytes{times}"))
    return tuple(found)
