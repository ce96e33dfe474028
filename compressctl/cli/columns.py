"""Tables as plain columns, printed at once for as many rows as a large graph has nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from compressctl.core.legible import on_one_line

if TYPE_CHECKING:
    from rich.console import Console

_NARROWEST = 16


def print_columns(
    console: Console, titles: Sequence[str], rows: Iterable[Sequence[str]], total: Sequence[str], *, left: int
) -> None:
    """left: how many columns are aligned to the left. The first is folded where a terminal is not wide enough."""
    cells = [titles, *([on_one_line(cell) for cell in row] for row in rows), total]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if console.is_terminal:
        others = sum(widths[1:]) + 2 * len(widths[1:])
        widths[0] = max(_NARROWEST, min(widths[0], console.width - others))
    form = "  ".join(f"{{:{'<' if place < left else '>'}{width}}}" for place, width in enumerate(widths))
    lines = [_folded(form.format(first[: widths[0]], *others), first, widths[0]) for first, *others in cells]
    console.out(lines[0], style="bold", highlight=False)
    # Not through the console, which takes longer for many lines than everything else.
    print(*lines[1:-1], sep="\n", file=console.file)
    console.out(f"\n{lines[-1]}", style="bold", highlight=False)


def _folded(line: str, first: str, width: int) -> str:
    """The line, with what its first cell has no room for in lines of its own below."""
    rest = [first[start : start + width] for start in range(width, len(first), width)]
    return "\n".join([line.rstrip(), *rest])
