"""A search's figures in words and rows. Plain text, not yet escaped for anything."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compressctl.core.errors import ExitCode
from compressctl.measure.results import Speedup
from compressctl.measure.speed_words import headline, times
from compressctl.report.tables import size
from compressctl.search.document import BY_TABLES, CostsOf, Figures, Loss, Point, Predicted, Search
from compressctl.search.front import amount, gains, speed_of

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
    speed = speed_of(figures)
    return [
        Cell(f"{point.name}{mark}"),
        Cell(size(figures.total_bytes), figures.total_bytes),
        Cell(f"{figures.smaller:.2f}x", figures.smaller),
        Cell(speed_words(figures), -1.0 if speed is None else speed),
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
    if figures.speed is not None or figures.on_target is not None:
        parts.append(speed_words(figures))
    if figures.loss is None:
        parts.append(f"quality not judged: {figures.loss_unknown}")
    elif figures.loss.value < 0 and figures.loss.kind == "metric":
        parts.append(loss_words(figures.loss))
    else:
        parts.append(f"{loss_words(figures.loss)} {'expected to be lost' if figures.loss.is_expected else 'lost'}")
    return ", ".join(parts)


FAILED_HEAD = ("recipe", "what it does", "why it gave nothing")
NOT_TRIED_HEAD = ("recipe", "what it does", "why it was left out")
PREDICTED_HEAD = ("recipe", "size foretold", "size", "speed foretold", "speed", "loss foretold", "lost")
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
            size(said.total_bytes),
            size(came.total_bytes),
            _in_full(said.speed) if said.times_faster is None else f"{times(said.times_faster)}x",
            _in_full(came.speed),
            "" if said.loss is None else f"{said.loss:.2f}",
            lost(came),
        ]
        for point, said, came in _foretold(found)
    ]


def prediction_error(found: Search) -> str:
    """How far what was foretold was off, as medians; empty where nothing was. Of ratios as they were measured, however wide their
    intervals: bounds of two timings cannot be held against each other."""
    told = _foretold(found)
    cut = [(said, came) for _, said, came in told if said.by != BY_TABLES]
    planned = [(said, came) for _, said, came in told if said.by == BY_TABLES]
    lines = []
    if cut:
        whose = "trained files were" if len(cut) > 1 else "trained file was"
        lines.append(f"{len(cut)} {whose} foretold by the same network before training; {_errors(cut)}.")
    if planned:
        whose = "files were" if len(planned) > 1 else "file was"
        lines.append(
            f"{len(planned)} {whose} foretold by the tables of single layers; {_errors(planned)}{_order(planned)}."
        )
    return " ".join(lines)


def _errors(told: Sequence[tuple[Predicted, Figures]]) -> str:
    of_size = [abs(said.total_bytes / came.total_bytes - 1) for said, came in told]
    of_time = [
        abs(ratio / came.speed.ratio - 1)
        for said, came in told
        if came.speed is not None
        and came.speed.ratio > 0
        and (ratio := said.speed.ratio if said.speed else said.times_faster) is not None
    ]
    time = f", of their time {statistics.median(of_time):.1%}" if of_time else ""
    return f"median error of their size {statistics.median(of_size):.1%}{time}"


def _order(told: Sequence[tuple[Predicted, Figures]]) -> str:
    """How alike the order of the losses is (Spearman's rank correlation, ties sharing their ranks); empty for fewer than three, or equal ones."""
    pairs = [(said.loss, came.loss.value) for said, came in told if said.loss is not None and came.loss is not None]
    if len(pairs) < 3:
        return ""
    said, came = (_ranks(values) for values in zip(*pairs, strict=True))
    if len(set(said)) == 1 or len(set(came)) == 1:
        return ""
    return f", rank correlation of their losses {statistics.correlation(said, came):.2f}"


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of theirs."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) + 1) / 2 for value in values]


def _foretold(found: Search) -> list[tuple[Point, Predicted, Figures]]:
    return [
        (point, point.predicted, point.figures)
        for point in found.points
        if point.predicted is not None and point.figures is not None
    ]


def _in_full(speed: Speedup | None) -> str:
    return "not timed" if speed is None else f"{times(speed.ratio)}x ({times(speed.low)} to {times(speed.high)})"


def speed_words(figures: Figures) -> str:
    """As in "1.72x faster", "foretold 1.72x there"."""
    there = figures.on_target
    if there is not None:
        return "not foretold" if there.times_faster is None else f"foretold {times(there.times_faster)}x there"
    return "not timed" if figures.speed is None else headline(figures.speed)


def costs_note(costs: CostsOf) -> str:
    """That nothing was timed here, and what every speed is instead."""
    threads = "" if costs.threads is None else f", {costs.threads or 'all'} threads"
    return (
        f"Every speed is foretold for {costs.machine}{threads}, by what each layer takes there ({costs.file}); nothing was timed on this machine. "
        "`compressctl bench` says there what the file takes."
    )


def time_rows(found: Search) -> list[list[str]]:
    """By kind of recipe, cheap ones first."""
    words = {
        "plain": "without samples",
        "calibrated": "from samples",
        "searched": "layer by layer, or by many runs",
        "tables": "tables of what each layer costs and loses",
        "planned": "chosen layer by layer by those tables",
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
        is_foretold = found.costs is not None and any(limit.name == "speedup" for limit in found.goal)
        lines.append(f"Found{', as far as the speed is foretold' if is_foretold else ''}: {asked}.")
    else:
        lines.append(f"Not found: {asked}.")
    if found.error:
        lines.append(f"What was chosen failed when it was measured in full: {found.error}")
    if point is None:
        lines += _nothing(found)
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
                f"It was chosen by what it {'is expected to lose, told from' if point.figures.loss.is_expected else 'lost on'} "
                f"{point.figures.loss.samples:,} {point.figures.loss.split} samples: {lost(point.figures)}."
            )
    elif point.figures is not None:
        lines.append(f"Best so far: {point.name}, {point.words}: {in_short(point.figures)}{_where(point.figures)}.")
    if found.status == "not met" and found.untried_for_time and found.exit_code != ExitCode.TIME_LIMIT:
        more = "recipe was" if found.untried_for_time == 1 else "recipes were"
        lines.append(
            f"The time was over: {found.untried_for_time} {more} not tried for it, and what waits for them; with more `--time` the same command goes on."
        )
    lines += [f"{near.point} would do {near.words}." for near in found.nearest]
    return lines


def _nothing(found: Search) -> Iterator[str]:
    """Why no file was chosen."""
    measured = [point.figures for point in found.points if point.figures is not None]
    if found.status == "interrupted":
        return
    if found.exit_code == ExitCode.TIME_LIMIT:
        began = "before any recipe was measured" if not measured else "before any file was smaller or faster"
        yield f"The time was over {began}: give it more, the same command goes on."
    elif measured and not any(gains(figures) for figures in measured):
        yield "No file is smaller or faster than the original, which stays."
    elif measured:
        yield "No file keeps the loss that is allowed: the original stays."
    elif found.points:
        yield f"No file could be made: the original stays. {found.points[0].name}: {found.points[0].reason}"
    else:
        why = "; ".join(f"{one.family}: {one.reason}" for one in found.not_tried)
        yield f"Nothing that a search tries fits this model: the original stays. {why}".rstrip()


def _where(figures: Figures) -> str:
    if figures.loss is None:
        return ""
    seen = f"{figures.loss.samples:,} {figures.loss.split} samples"
    return f", told from {seen}" if figures.loss.is_expected else f" on {seen}"
