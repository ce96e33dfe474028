"""Where a search's files lie: how much smaller against how much faster, and against what was lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from compressctl.search import words
from compressctl.search.document import Figures, Point, Search
from compressctl.search.front import speed_of

WIDTH, HEIGHT, MARGIN = 640, 360, 52
_FACTORS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
_LETTER, _LINE = 7.0, 13.0
"""Pixels of a name's letter and line, so that names do not lie on each other."""


@dataclass(frozen=True)
class Dot:
    """x, y: pixels. is_over: whether it lost more than is allowed. label: empty where there is no room for it; label_x, label_y, anchor: where its text stands."""

    point: Point
    x: float
    y: float
    title: str
    is_over: bool
    label: str
    label_x: float = 0.0
    label_y: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True)
class Picture:
    """across, up: ticks as (words, pixels). limits: lines of what was asked, (x1, y1, x2, y2)."""

    title: str
    words: str
    x_words: str
    y_words: str
    across: Sequence[tuple[str, float]]
    up: Sequence[tuple[str, float]]
    dots: Sequence[Dot]
    limits: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class _Axis:
    """place: 0 to 1. ticks: values with their words."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[str, float]]


def pictures(found: Search) -> list[Picture]:
    """Those that the figures allow."""
    measured = [(point, point.figures) for point in found.points if point.figures is not None]
    made = [_speeds(measured, found), _losses(measured, found)]
    return [picture for picture in made if picture is not None]


Measured = Sequence[tuple[Point, Figures]]


def _speeds(measured: Measured, found: Search) -> Picture | None:
    placed = [(point, figures.smaller, speed) for point, figures in measured if (speed := speed_of(figures))]
    if len(placed) < 2:
        return None
    x, y = _factors([1.0, *(smaller for _, smaller, _ in placed)]), _factors([1.0, *(speed for _, _, speed in placed)])
    speed = next((limit.asked for limit in found.goal if limit.name == "speedup"), None)
    return _picture(
        "Size and speed",
        "times smaller",
        "times as fast" if found.costs is None else "times as fast, foretold",
        placed,
        x,
        y,
        found,
        (_smaller(found), speed),
    )


def _losses(measured: Measured, found: Search) -> Picture | None:
    placed = [(point, figures.smaller, figures.loss.value) for point, figures in measured if figures.loss is not None]
    if len(placed) < 2:
        return None
    allowed = next((limit.asked for limit in found.goal if limit.name == "drop"), 1.0)
    most = max(4 * allowed, 1.0)
    # What lost far more stands at the upper edge: it is out, whatever it lost.
    shown = [(point, smaller, min(loss, most)) for point, smaller, loss in placed]
    x, y = _factors([1.0, *(smaller for _, smaller, _ in placed)]), _even([0.0, most, *(loss for _, _, loss in shown)])
    unit = next(figures.loss.unit for _, figures in measured if figures.loss is not None)
    what = f"lost ({unit})" if unit else "lost"
    return _picture("Size and loss", "times smaller", what, shown, x, y, found, (_smaller(found), allowed))


def _smaller(found: Search) -> float | None:
    size = next((limit.asked for limit in found.goal if limit.name == "size"), None)
    return None if size is None or not found.original_bytes else found.original_bytes / size


def _picture(
    title: str,
    x_words: str,
    y_words: str,
    placed: Sequence[tuple[Point, float, float]],
    x: _Axis,
    y: _Axis,
    found: Search,
    asked: tuple[float | None, float | None],
) -> Picture:
    limits = []
    if asked[0] is not None and 0 <= x.place(asked[0]) <= 1:
        limits.append((_across(x.place(asked[0])), float(MARGIN), _across(x.place(asked[0])), float(HEIGHT - MARGIN)))
    if asked[1] is not None and 0 <= y.place(asked[1]) <= 1:
        limits.append((float(MARGIN), _up(y.place(asked[1])), float(WIDTH - MARGIN), _up(y.place(asked[1]))))
    dots = _with_labels([(point, _across(x.place(a)), _up(y.place(b))) for point, a, b in placed], found)
    return Picture(
        title,
        "; ".join(
            f"{point.name}: {words.in_short(point.figures)}" for point, _, _ in placed if point.figures is not None
        ),
        x_words,
        y_words,
        [(tick, _across(x.place(value))) for tick, value in x.ticks],
        [(tick, _up(y.place(value))) for tick, value in y.ticks],
        dots,
        limits,
    )


def _factors(values: Sequence[float]) -> _Axis:
    low, high = min(values) / 1.15, max(*values, 2.0) * 1.15
    span = math.log(high / low)
    return _Axis(
        lambda value: math.log(value / low) / span, [(f"{one:g}x", one) for one in _FACTORS if low <= one <= high]
    )


def _even(values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    span = high - low
    low, span = low - 0.05 * span, 1.1 * span
    step = 10 ** math.floor(math.log10(span / 2))
    step *= next((times for times in (1, 2, 5) if span / (step * times) <= 6), 10)
    first = math.ceil(low / step)
    ticks = [(f"{place * step:g}", place * step) for place in range(first, math.floor((low + span) / step) + 1)]
    return _Axis(lambda value: (value - low) / span, ticks)


def _across(share: float) -> float:
    return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)


def _up(share: float) -> float:
    return round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 1)


def _with_labels(placed: Sequence[tuple[Point, float, float]], found: Search) -> list[Dot]:
    """Names of those on the front, the chosen one first, where there is room for them."""
    taken: list[tuple[float, float, float, float]] = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in placed]
    dots: dict[str, Dot] = {}
    allowed = next((limit.asked for limit in found.goal if limit.name == "drop"), None)
    ordered = sorted(placed, key=lambda entry: (entry[0].name != found.chosen, not entry[0].is_on_front, entry[0].name))
    for point, x, y in ordered:
        assert point.figures is not None
        title = f"{point.name}: {words.in_short(point.figures)}"
        loss = point.figures.loss
        is_over = loss is not None and allowed is not None and loss.value > allowed
        dot = Dot(point, x, y, title, is_over, "")
        width = _LETTER * len(point.name)
        for dx, dy, anchor in ((9, 4, "start"), (-9, 4, "end"), (0, -10, "middle"), (0, 19, "middle")):
            left = x + dx - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
            box = (left, y + dy - _LINE + 2, left + width, y + dy + 2)
            is_inside = box[0] >= 0 and box[2] <= WIDTH
            if (
                (point.is_on_front or point.name == found.chosen)
                and is_inside
                and not any(_meet(box, other) for other in taken)
            ):
                taken.append(box)
                dot = replace(dot, label=point.name, label_x=x + dx, label_y=y + dy, anchor=anchor)
                break
        dots[point.name] = dot
    return [dots[point.name] for point, _, _ in placed]


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
