"""A search's figures in words and rows. Plain text, not yet escaped for anything."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from compressctl.core.errors import ExitCode
from compressctl.measure.results import Speedup
from compressctl.measure.speed_words import headline, times
from compressctl.report.tables import size
from compressctl.search.document import Figures, Loss, Point, Predicted, Search
from compressctl.search.front import amount, speed_of

HEAD = ("recipe", "size", "smaller", "speed", "lost", "on the front", "holds")


@dataclass(frozen=True)
class Cell:
    """value: what a table sorts by, None for the text itself."""

    text: str
    value: float | None = None


def rows(found: Search) -> list[list[str]]:
    """Of every measured point, those on the front first, and the smallest last."""
    return [[cell.text for cell in row] for row in cells(found)]


def cells(found: Search) -> list[list[Cell]]:
    return [_row(point, figures, found) for point, figures in ordered(found)]


def ordered(found: Search) -> list[tuple[Point, Figures]]:
    """Every measured point, those on the front first, and the smallest last."""
    measured = [(point, point.figures) for point in found.points if point.figures is not None]
    return sorted(measured, key=lambda entry: (not entry[0].is_on_front, -entry[1].total_bytes, entry[0].name))


def _row(point: Point, figures: Figures, found: Search) -> list[Cell]:
    mark = " (chosen)" if point.name == found.chosen else ""
    speed = speed_of(figures.speed)
    return [
        Cell(f"{point.name}{mark}"),
        Cell(size(figures.total_bytes), figures.total_bytes),
        Cell(f"{figures.smaller:.2f}x", figures.smaller),
        Cell(_headline(figures.speed), -1.0 if speed is None else speed),
        Cell(lost(figures), math.inf if figures.loss is None else figures.loss.value),
        Cell("yes" if point.is_on_front else ""),
        Cell("yes" if point.holds else ""),
    ]


def lost(figures: Figures) -> str:
    """As in "0.56 points", "not judged"."""
    return "not judged" if figures.loss is None else loss_words(figures.loss)


def loss_words(loss: Loss) -> str:
    if loss.value < 0 and loss.kind == "metric":
        return f"{amount(-loss.value, loss.unit)} gained"
    return amount(loss.value, loss.unit)


def in_short(figures: Figures) -> str:
    """As in "3.92x smaller, 1.72x faster, 0.56 points lost"."""
    parts = [f"{figures.smaller:.2f}x smaller" if figures.smaller >= 1 else f"{1 / figures.smaller:.2f}x larger"]
    if figures.speed is not None:
        parts.append(headline(figures.speed))
    if figures.loss is None:
        parts.append(f"quality not judged: {figures.loss_unknown}")
    elif figures.loss.value < 0 and figures.loss.kind == "metric":
        parts.append(loss_words(figures.loss))
    else:
        parts.append(f"{loss_words(figures.loss)} lost")
    return ", ".join(parts)


FAILED_HEAD = ("recipe", "what it does", "why it gave nothing")
NOT_TRIED_HEAD = ("recipe", "what it does", "why it was left out")
PREDICTED_HEAD = ("recipe", "size before training", "size", "speed before training", "speed")
TIME_HEAD = ("recipes", "tried", "time")


def failed_rows(found: Search) -> list[list[str]]:
    return [[point.name, point.words, point.reason] for point in found.points if point.figures is None]


def not_tried_rows(found: Search) -> list[list[str]]:
    return [[one.name, one.words, one.reason] for one in found.not_tried]


def predicted_rows(found: Search) -> list[list[str]]:
    """Of every file that was foretold, what was said and what came."""
    return [
        [
            point.name,
            size(predicted.total_bytes),
            size(figures.total_bytes),
            _in_full(predicted.speed),
            _in_full(figures.speed),
        ]
        for point, predicted, figures in _foretold(found)
    ]


def prediction_error(found: Search) -> str:
    """How far what was foretold was off, as medians; empty where nothing was. Of ratios as they were measured, however wide their
    intervals: bounds of two timings cannot be held against each other."""
    told = _foretold(found)
    if not told:
        return ""
    of_size = [abs(said.total_bytes / came.total_bytes - 1) for _, said, came in told]
    of_time = [abs(said.speed.ratio / came.speed.ratio - 1) for _, said, came in told if said.speed and came.speed]
    time = f", of their time {statistics.median(of_time):.1%}" if of_time else ""
    return (
        f"{len(told)} trained file{'s were' if len(told) > 1 else ' was'} foretold by the same network before training; median error of their size "
        f"{statistics.median(of_size):.1%}{time}."
    )


def _foretold(found: Search) -> list[tuple[Point, Predicted, Figures]]:
    return [
        (point, point.predicted, point.figures)
        for point in found.points
        if point.predicted is not None and point.figures is not None
    ]


def _in_full(speed: Speedup | None) -> str:
    return "not timed" if speed is None else f"{times(speed.ratio)}x ({times(speed.low)} to {times(speed.high)})"


def _headline(speed: Speedup | None) -> str:
    return "not timed" if speed is None else headline(speed)


def time_rows(found: Search) -> list[list[str]]:
    """By kind of recipe, cheap ones first."""
    words = {
        "plain": "without samples",
        "calibrated": "from samples",
        "searched": "layer by layer, or by many runs",
        "shaped": "cut and not trained, to see sizes and speeds",
        "trained": "with training",
        "learned": "with roundings learned layer by layer",
        "confirmed": "the file that is handed over, measured in full",
        "looked": "model and data, looked at",
    }
    tried = (*found.points, *found.shaped)
    count = {kind: sum(point.kind == kind for point in tried) for kind in words}
    return [
        [words.get(kind, kind), str(count.get(kind) or ""), duration(seconds)]
        for kind, seconds in found.seconds_by_kind.items()
    ]


def duration(seconds: float) -> str:
    """As in "12 s", "3 min 20 s", "1 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def summary(found: Search, files: Sequence[str]) -> list[str]:
    """What came out, the most important first."""
    lines: list[str] = []
    point = next((one for one in found.points if one.name == found.chosen), None)
    asked = ", ".join(limit.words for limit in found.goal) or "nothing but a smaller or faster file"
    if found.status == "interrupted":
        lines.append(
            "The search was stopped; what it found until then is below, and the same command goes on from there."
        )
    elif found.status == "met":
        lines.append(f"Found: {asked}.")
    else:
        lines.append(f"Not found: {asked}.")
    if point is None:
        if found.exit_code == ExitCode.TIME_LIMIT:
            lines.append("The time was over before any recipe was measured: give it more, the same command goes on.")
        elif found.status != "interrupted":
            lines.append("No file keeps the loss that is allowed: the original stays.")
    elif files and point.confirmed is not None:
        lines.append(
            f"Handed over ({', '.join(files)}): {point.name}, {point.words}: {in_short(point.confirmed)}{_where(point.confirmed)}."
        )
        if found.status == "not met" and point.holds:
            lines.append(
                f"It kept all of that on the samples that it was chosen by, and misses it in the end: {', '.join(found.missed)}."
            )
        if point.figures is not None and point.figures.loss is not None:
            lines.append(
                f"It was chosen by what it lost on {point.figures.loss.samples:,} {point.figures.loss.split} samples: {lost(point.figures)}."
            )
    elif point.figures is not None:
        lines.append(f"Best so far: {point.name}, {point.words}: {in_short(point.figures)}{_where(point.figures)}.")
    lines += [f"{near.point} would do {near.words}." for near in found.nearest]
    return lines


def _where(figures: Figures) -> str:
    return "" if figures.loss is None else f" on {figures.loss.samples:,} {figures.loss.split} samples"
