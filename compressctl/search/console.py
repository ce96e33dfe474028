"""A search on a terminal: the files that were measured, and the verdict last."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compressctl.core.legible import legible
from compressctl.measure.speed_words import in_a_cell
from compressctl.report.tables import size
from compressctl.search import words
from compressctl.search.document import Figures, Point, Search

_SHOWN = 12


def render(found: Search) -> RenderableType:
    parts: list[RenderableType] = []
    measured = words.ordered(found)
    if measured:
        parts.append(_table(found, measured[:_SHOWN]))
        more = f"; {len(measured) - _SHOWN} more in search.md" if len(measured) > _SHOWN else ""
        parts.append(_text(f"* on the front: no other file is as good in size, speed and loss{more}"))
    if found.not_tried:
        parts.append(
            _text(f"not tried, each for a reason in search.md: {', '.join(one.name for one in found.not_tried)}")
        )
    failed = words.failed_rows(found)
    parts += [_text(f"{name}: {reason.splitlines()[0] if reason else 'it gave nothing'}") for name, _, reason in failed]
    parts += [_text(note) for note in found.notes]
    parts.append(_text(found.judged))
    parts += [_text(line, style="bold") for line in found.summary]
    return Group(*parts)


def _table(found: Search, measured: Sequence[tuple[Point, Figures]]) -> Table:
    """Within 80 columns, for names of up to 26 letters."""
    units = {figures.loss.unit for _, figures in measured if figures.loss is not None}
    unit = units.pop() if len(units) == 1 and units <= {"points", "%"} else ""
    table = Table(title=_text(found.name), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("recipe", "size", "smaller", "speed", f"lost, {unit}" if unit else "lost", "holds"):
        table.add_column(name, justify="left" if name in ("recipe", "holds") else "right")
    for point, figures in measured:
        mark = "* " if point.is_on_front else "  "
        cells = (
            mark + point.name,
            size(figures.total_bytes),
            f"{figures.smaller:.2f}x",
            _speed(figures),
            _lost(figures, unit),
            "yes" if point.holds else "",
        )
        table.add_row(*map(_text, cells), style="bold" if point.name == found.chosen else None)
    return table


def _speed(figures: Figures) -> str:
    if figures.on_target is not None:
        faster = figures.on_target.times_faster
        return "not foretold" if faster is None else f"~{faster:.2f}x"
    return "not timed" if figures.speed is None else in_a_cell(figures.speed)


def _lost(figures: Figures, unit: str) -> str:
    """unit: where the column's head says it."""
    if figures.loss is None or not unit:
        return words.lost(figures)
    return f"{round(figures.loss.value, 2) + 0.0:.2f}"  # never "-0.00"


def _text(value: str, style: str = "") -> Text:
    """Neither rich's markup nor a terminal's escapes have a meaning in it."""
    return Text(legible(value), style=style)
