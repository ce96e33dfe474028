"""The report's pictures: matplotlib draws SVG, whose colours become the page's own so that they follow light and dark."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from compressctl.measure.results import BackendResult, Speedup, WaterfallStep
from compressctl.measure.speed_words import is_wide, verdict
from compressctl.report.document import Report
from compressctl.report.tables import may_be_chance, milliseconds, score_text, short, size, speed_headline
from compressctl.store.cache_place import cache_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "text": "#010203",
    "soft": "#010204",
    "line": "#010205",
    "was": "#010206",
    "bar": "#010207",
    "bad": "#010208",
}
"""Stand-ins that matplotlib writes into the SVG; each becomes a CSS variable of the page."""

_OVERLAP = (40, 16)
"""Dots across and up, closer than which two names cannot both be read."""

_WIDTH = 4.6
_HEIGHT = 3.1
_FARTHEST = 1e12
"""Beyond which an axis has no room for a value: no run measures one."""

_LEVELS = (1, 2, 4, 8, 16, 32)
"""The usual scale of compression: 2x (half precision), 4x (8 bit), 8x (4 bit), 16x and 32x (2 bit, binary)."""

_LEVELS_SHOWN = 16
"""However little was won, so that it is seen against what is usual."""


@dataclass(frozen=True)
class Chart:
    """svg: inline markup. title: what it shows, words: what it says to somebody who cannot see it."""

    title: str
    words: str
    svg: str


def charts(part: BackendResult, report: Report) -> list[Chart]:
    """Every picture that the measurements allow, in the order of the page."""
    made = [
        _tradeoff(part, report, "file size", lambda point: point.total_bytes / 1e6, "MB"),
        _tradeoff(part, report, "latency p50", _p50, "ms"),
        _bars(part, "File size after each stage", lambda point: point.total_bytes, size),
        _bars(part, "Latency after each stage", _p50, milliseconds),
        _bars(
            part,
            f"{(report.metric or 'score').capitalize()} after each stage",
            _score,
            lambda value: score_text(value, report.metric_unit),
        ),
        _distribution(part),
        _level(part, report),
    ]
    return [chart for chart in made if chart is not None]


def _tradeoff(
    part: BackendResult, report: Report, label: str, cost: Callable[[WaterfallStep], float | None], unit: str
) -> Chart | None:
    """Score against what it costs: every stage a point, those that no other beats in both joined by a line."""
    points = [
        (short(point.id), found, point.score.value)
        for point in part.waterfall
        if (found := cost(point)) is not None and point.score is not None
    ]
    if len(points) < 2:
        return None
    title = f"{(report.metric or 'score').capitalize()} against {label}"
    if far := _too_far(title, [(name, number) for name, x, y in points for number in (x, y)]):
        return far
    figure, axes = _figure()
    front = _front(points, higher_is_better=_higher_is_better(report))
    axes.plot([x for x, _ in front], [y for _, y in front], color=_COLOURS["line"], linewidth=1.5, zorder=1)
    labels: list[tuple[str, float, float]] = []
    for number, (name, x, y) in enumerate(points):
        first, last = number == 0, number == len(points) - 1
        axes.scatter([x], [y], s=52, color=_COLOURS["bar" if last else "was"], zorder=2, label=name)
        labels.append(("float" if first else name, x, y))
    axes.set_xlabel(f"{label} ({unit})")
    axes.set_ylabel(f"{report.metric or 'score'}{f' ({report.metric_unit})' if report.metric_unit else ''}")
    axes.set_xlim(left=0, right=max(x for _, x, _ in points) * 1.3 or 1)
    low, high = min(y for _, _, y in points), max(y for _, _, y in points)
    margin = max(0.25 * (high - low), 0.01 * abs(high), 1e-6)
    axes.set_ylim(low - margin, min(high + margin, 100.4) if report.metric_unit == "%" else high + margin)
    if report.metric_unit == "%":
        bottom, top = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= min(top, 100.001)])
    _label(figure, axes, labels)
    words = "; ".join(f"{name}: {x:.3g} {unit}, {score_text(y, report.metric_unit)}" for name, x, y in points)
    return Chart(title, words, _svg(figure))


def _too_far(title: str, values: Sequence[tuple[str, float]]) -> Chart | None:
    """Words in the place of a picture, where a report of somebody's holds what cannot be drawn. values: with the names of whose they are."""
    far = dict.fromkeys(name for name, value in values if not abs(value) <= _FARTHEST)
    if not far:
        return None
    words = f"Not drawn, since no axis has room for it: {', '.join(far)}."
    return Chart(title, words, f"<p>{escape(words)}</p>")


def _front(points: Sequence[tuple[str, float, float]], *, higher_is_better: bool) -> list[tuple[float, float]]:
    sign = 1 if higher_is_better else -1
    ordered = sorted({(x, y) for _, x, y in points}, key=lambda point: (point[0], -sign * point[1]))
    front: list[tuple[float, float]] = []
    for x, y in ordered:
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    return front


def _higher_is_better(report: Report) -> bool:
    from compressctl.core.source import metrics

    return report.metric is None or report.metric not in metrics or bool(metrics.get(report.metric).higher_is_better)


def _p50(point: WaterfallStep) -> float | None:
    return None if point.latency is None else point.latency.typical_ms


def _score(point: WaterfallStep) -> float | None:
    return None if point.score is None else point.score.value


def _bars(
    part: BackendResult, title: str, value: Callable[[WaterfallStep], float | None], show: Callable[[float], str]
) -> Chart | None:
    points = [(short(point.id), found) for point in part.waterfall if (found := value(point)) is not None]
    if len(points) < 2:
        return None
    if far := _too_far(title, points):
        return far
    figure, axes = _figure(height=0.9 + 0.42 * len(points))
    names, values = [name for name, _ in points], [found for _, found in points]
    colours = [_COLOURS["was"]] * (len(points) - 1) + [_COLOURS["bar"]]
    rows = list(range(len(points)))
    axes.barh(rows, values, color=colours, height=0.62)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlim(min(0, *values) * 1.1, max(0, *values) * 1.32 or 1)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    for row, found in zip(rows, values, strict=True):
        axes.annotate(
            show(found),
            (max(found, 0), row),
            textcoords="offset points",
            xytext=(5, 0),
            va="center",
            color=_COLOURS["text"],
            fontsize=9,
        )
    return Chart(title, "; ".join(f"{name}: {show(found)}" for name, found in points), _svg(figure))


def _distribution(part: BackendResult) -> Chart | None:
    """The share of inferences that took at most so long."""
    before, after = part.baseline.latency, part.compressed.latency
    if before is None or after is None or len(before.percentiles_ms) != 101 or len(after.percentiles_ms) != 101:
        return None
    title, parts = "Distribution of latency", ((before, "float", "was"), (after, "compressed", "bar"))
    if far := _too_far(title, [(name, max(each.p90_ms, *each.percentiles_ms)) for each, name, _ in parts]):
        return far
    figure, axes = _figure()
    for latency, name, colour in parts:
        axes.plot(latency.percentiles_ms, range(101), color=_COLOURS[colour], linewidth=2, label=name)
    # On a busy machine the slowest hundredth can be a hundred times slower, which would leave no room for the rest.
    slowest = min(max(before.percentiles_ms[99], after.percentiles_ms[99]), 4 * max(before.p90_ms, after.p90_ms))
    axes.set_xlim(0, slowest * 1.05 or 1)
    axes.set_ylim(0, 101)
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel("% of inferences at most so slow")
    _legend(axes)
    words = f"float: median {before.p50_ms:.3f} ms, 90 % below {before.p90_ms:.3f} ms; compressed: median "
    return Chart(title, f"{words}{after.p50_ms:.3f} ms, 90 % below {after.p90_ms:.3f} ms", _svg(figure))


def _level(part: BackendResult, report: Report) -> Chart | None:
    """Where the result stands: how much smaller, how much faster, at what loss."""
    after = part.compressed
    if after.speed is None:
        return None
    title = "Level: smaller, faster, at what loss"
    if far := _too_far(title, list(_of_level(part))):
        return far
    figure, axes = _figure()
    axes.set_xscale("log", base=2)
    axes.axhline(1, color=_COLOURS["line"], linewidth=1.2)
    for level in _LEVELS:
        axes.axvline(level, color=_COLOURS["line"], linewidth=0.8, linestyle=(0, (2, 3)))
    speeds, labels = [(1.0, 1.0)], []
    for point in part.waterfall[1:]:
        if point.speed is None:
            continue
        x, last = part.baseline.total_bytes / max(point.total_bytes, 1), point is part.waterfall[-1]
        y = _told(point.speed)
        speeds.append((x, min(point.speed.high, 2 * y)))
        bounds = [[y - point.speed.low], [point.speed.high - y]]
        # Without a dot where no single value is told.
        dot = "none" if is_wide(point.speed.low, point.speed.high) else "o"
        colour = _COLOURS["bar" if last else "was"]
        axes.errorbar([x], [y], yerr=bounds, fmt=dot, color=colour, capsize=3, markersize=7)
        drop = "" if point.drop is None else f": {_loss(point.drop, report)}"
        if last and may_be_chance(after):
            drop += "\n(may be chance)"
        labels.append((f"{short(point.id)}{drop}", x, y))
    largest = max(x for x, _ in speeds)
    ticks = [level for level in _LEVELS if level <= max(_LEVELS_SHOWN, largest * 2)]
    axes.set_xlim(min(0.85, *(x * 0.85 for x, _ in speeds)), max(ticks[-1], largest) * 1.5)
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, max(2.0, *(y for _, y in speeds)) * 1.25)
    axes.set_xlabel("smaller")
    axes.set_ylabel("faster (x)")
    _label(figure, axes, labels)
    words = f"{part.smaller:.2f}x smaller, {speed_headline(after.speed)}"
    if after.change:
        words += f", {_loss(after.change.drop, report)}{may_be_chance(after)}"
    return Chart(title, words, _svg(figure))


def _of_level(part: BackendResult) -> Iterator[tuple[str, float]]:
    """Each stage's figures with its name; what is a ratio, both ways, since a file of no bytes is no part of one."""
    for point in part.waterfall[1:]:
        if point.speed is not None:
            smaller = part.baseline.total_bytes / max(point.total_bytes, 1)
            figures = (smaller, 1 / smaller if smaller > 0 else math.inf, point.speed.high, point.drop or 0)
            yield from ((short(point.id), figure) for figure in figures)


def _told(speed: Speedup) -> float:
    """Where its name stands: the value, or the bound where an interval is too wide for one."""
    if not is_wide(speed.low, speed.high):
        return speed.ratio
    found = verdict(speed.low, speed.high)
    return speed.low if found == "faster" else speed.high if found == "slower" else min(max(1.0, speed.low), speed.high)


def _loss(drop: float, report: Report) -> str:
    if drop == 0:
        return "nothing lost"
    if report.metric_unit == "%":
        return f"{max(abs(drop), 0.01):.2f} points {'lost' if drop > 0 else 'gained'}"
    return f"{report.metric or 'score'} {abs(drop):.2g} {'worse' if drop > 0 else 'better'}"


def _matplotlib() -> tuple[Any, Any]:
    """The package and its figures. Its list of fonts goes into our cache, and is made again where nothing can be kept there."""
    place = cache_folder()
    if place is not None and "MPLCONFIGDIR" not in os.environ:
        os.environ["MPLCONFIGDIR"] = str(place / "matplotlib")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.figure import Figure

    return matplotlib, Figure


def _figure(height: float = _HEIGHT) -> tuple[Any, Any]:
    """A figure without pyplot, which would look for a screen."""
    matplotlib, figure_type = _matplotlib()
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "compressctl", "text.parse_math": False})
    figure = figure_type(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_COLOURS["line"])
    axes.tick_params(colors=_COLOURS["soft"], labelsize=9)
    axes.xaxis.label.set_color(_COLOURS["soft"])
    axes.yaxis.label.set_color(_COLOURS["soft"])
    return figure, axes


def _label(figure: Any, axes: Axes, labels: Sequence[tuple[str, float, float]]) -> None:
    """Names beside points, (name, x, y); points that lie on each other share one label of several lines. Limits are set."""
    figure.draw_without_rendering()
    placed: list[tuple[tuple[float, float], list[str]]] = []
    for name, x, y in labels:
        here = axes.transData.transform((x, y))
        near = (np.abs(axes.transData.transform(other) - here) < _OVERLAP for other, _ in placed)
        found = next((lines for (_, lines), close in zip(placed, near, strict=True) if close.all()), None)
        if found is None:
            placed.append(((x, y), [name]))
        else:
            found.append(name)
    for point, lines in placed:
        axes.annotate(
            "\n".join(lines),
            point,
            textcoords="offset points",
            xytext=(8, 0),
            va="center",
            color=_COLOURS["text"],
            fontsize=9,
        )


def _legend(axes: Axes) -> None:
    legend = axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for text in legend.get_texts():
        text.set_color(_COLOURS["text"])


def _svg(figure: Any) -> str:
    """Inline markup: no fixed size, ids of its own (several stand in one page), the page's colours."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r'<svg aria-hidden="true" focusable="false" \1', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>c{own}-", svg)
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
