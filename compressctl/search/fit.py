"""How narrow a network has to be for the size and the speed that are asked: seen on networks that nothing has trained yet.

Training changes numbers and not shapes, so that a cut network is exactly as large and as fast before it is trained as after. What would take
minutes or hours to train is thus known in seconds to be hopeless, and what is trained is as wide as the limits allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from compressctl.search.document import Figures, Point
from compressctl.search.narrow import WHOLE, Of, Shape, as_cut, size_is_harder
from compressctl.search.request import Goal
from compressctl.search.space import Candidate

_MOST_BLOCKS = 2
"""Residual blocks that go before channels do, where speed is asked for: bytes are saved where channels are many."""

_MOST_BUILT = 6
"""Widths of one kind that are built."""

_LEAST = 3
"""Per cent under which nothing is left that could learn."""

CLOSE = 0.05
"""Logarithm of a ratio by which a width may be narrower than it had to be."""

_SLOPES = 0.25, 4.0
"""Between which powers of the width bytes and time are expected to grow."""

SPARE_SPEED, SPARE_SIZE = 1.03, 1.01
"""Times what is asked: two timings differ by as much, and trained roundings may need some bytes more."""


@dataclass(frozen=True)
class Fitted:
    """shapes: the widest that keep both limits, one for each number of blocks and width of weights that has one. refused: of the others, by
    name, why there is none."""

    shapes: tuple[Shape, ...]
    refused: Mapping[str, str]


def fit(
    goal: Goal, limit_bytes: int | None, known: Mapping[str, Point], build: Callable[[Candidate], Point | None]
) -> Fitted:
    """known: points by name. build: a network that is cut and not trained, built and timed; None where it is left out."""
    shapes: list[Shape] = []
    refused: dict[str, str] = {}
    for bits in (8, 4):
        for blocks in range(1 + (_MOST_BLOCKS if goal.speedup is not None else 0)):
            of = _harder(known.get("int8" if bits == 8 else "w4a8"), goal, limit_bytes)
            widths = _Widths(Shape(WHOLE, of, blocks, bits), goal, limit_bytes, build)
            found = widest(widths.missing)
            if found is not None:
                shapes.append(replace(widths.shape, percent=found))
            else:
                refused[widths.shape.kind] = widths.why
                if blocks and widths.is_failed:
                    break
    return Fitted(tuple(shapes), refused)


def widest(missing: Callable[[int], float | None]) -> int | None:
    """The widest network that is small and fast enough, in per cent, as far as a few tries show; None where none is.

    missing: of a width, the logarithm of how many times it is too large or too slow, at most 0 where it is neither; None where it cannot be
    made. Every try aims at the limit along a line through what is known of two widths, in logarithms of both; of one, as if bytes and time
    were in proportion to the width.
    """
    over: dict[int, float] = {}
    percent = WHOLE
    for _ in range(_MOST_BUILT):
        found = missing(percent)
        if found is None:
            break
        over[percent] = found
        holds = max((width for width, by in over.items() if by <= 0), default=_LEAST - 1)
        too_wide = min((width for width, by in over.items() if by > 0), default=WHOLE + 1)
        is_close = over.get(holds, -math.inf) > -CLOSE
        if is_close or too_wide - holds <= max(1, round(CLOSE * holds)):
            break
        percent = min(max(_aimed(over, holds, too_wide), holds + 1), too_wide - 1)
    return max((width for width, by in over.items() if by <= 0), default=None)


def _aimed(over: Mapping[int, float], holds: int, too_wide: int) -> int:
    """Where the line through the two nearest widths, if possible one on each side, reaches 0."""
    known = [width for width in (holds, too_wide) if width in over]
    near = sorted(over, key=lambda width: (width not in known, abs(over[width])))[:2]
    slope = 1.0
    if len(near) == 2:
        first, second = near
        slope = (over[first] - over[second]) / math.log(first / second)
    steep = min(max(slope, _SLOPES[0]), _SLOPES[1])
    start = near[0]
    return math.floor(start * math.exp(-min(max(over[start], -5.0), 5.0) / steep))


def too_much(figures: Figures, goal: Goal, limit_bytes: int | None) -> float:
    """The logarithm of how many times a file is larger or slower than asked, whichever is more; at most 0 where it is neither.

    By the speed that is most likely, however wide its interval: that only decides what is trained.
    """
    over = [-math.inf]
    if limit_bytes is not None:
        over.append(math.log(SPARE_SIZE * figures.total_bytes / limit_bytes))
    if goal.speedup is not None:
        over.append(_slow(figures, goal.speedup))
    return max(over)


def _slow(figures: Figures, wanted: float) -> float:
    speed = figures.speed
    return math.inf if speed is None or speed.ratio <= 0 else math.log(SPARE_SPEED * wanted / speed.ratio)


def _harder(rounded: Point | None, goal: Goal, limit_bytes: int | None) -> Of:
    """What has to be cut: what the rounded network lacks most of."""
    if rounded is None or rounded.figures is None or limit_bytes is None or goal.speedup is None:
        of_size = goal.speedup is None if limit_bytes is None or goal.speedup is None else size_is_harder(goal)
    else:
        of_size = math.log(rounded.figures.total_bytes / limit_bytes) > _slow(rounded.figures, goal.speedup)
    return "parameters" if of_size else "macs"


class _Widths:
    """One kind of network at any width."""

    def __init__(
        self, shape: Shape, goal: Goal, limit_bytes: int | None, build: Callable[[Candidate], Point | None]
    ) -> None:
        self.shape, self._goal, self._limit, self._build = shape, goal, limit_bytes, build
        self.why, self.is_failed, self._last = "", False, ""

    def missing(self, percent: int) -> float | None:
        candidate = as_cut(replace(self.shape, percent=percent))
        point = self._build(candidate)
        if point is None or point.figures is None:
            self.is_failed = True
            why = (
                f"there was no time to build and time {percent} % of it" if point is None else first_line(point.reason)
            )
            self.why = f"{self._last}; {why}" if self._last else why
            return None
        over = too_much(point.figures, self._goal, self._limit)
        self._last = f"{percent} % of it misses what is asked by {math.expm1(over):.0%}"
        self.why = f"even {self._last}"
        return over


def first_line(text: str) -> str:
    return next(iter(text.splitlines()), "it failed")
