"""A search on a terminal: the files that were measured, and the verdict last."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compressctl.core.legible import legible
from compressctl.search import words
from compressctl.search.document import Search

_SHOWN = 12


def render(found: Search) -> RenderableType:
    parts: list[RenderableType] = []
    rows = words.rows(found)
    if rows:
        table = Table(title=_text(found.name), title_justify="left")
        for position, name in enumerate(words.HEAD):
            table.add_column(name, justify="right" if 0 < position < 5 else "left")
        for row in rows[:_SHOWN]:
            table.add_row(*map(_text, row))
        parts.append(table)
    if len(rows) > _SHOWN:
        parts.append(_text(f"and {len(rows) - _SHOWN} more in search.md"))
    failed = words.failed_rows(found)
    parts += [_text(f"{name}: {reason.splitlines()[0] if reason else 'it gave nothing'}") for name, _, reason in failed]
    parts += [_text(note) for note in found.notes]
    parts.append(_text(found.judged))
    parts += [_text(line, style="bold") for line in found.summary]
    return Group(*parts)


def _text(value: str, style: str = "") -> Text:
    """Neither rich's markup nor a terminal's escapes have a meaning in it."""
    return Text(legible(value), style=style)
