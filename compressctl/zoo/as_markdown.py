"""A leaderboard as Markdown, fit for a pull-request comment: what came of it, what changed, then the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compressctl.report.markdown import folded, table, text
from compressctl.zoo.results import OUTCOME_WORDS, Outcome
from compressctl.zoo.row_words import faster, smaller, worst_output

if TYPE_CHECKING:
    from compressctl.zoo.leaderboard import Row

_MOST_ROWS, _MOST_CHANGES = 200, 30
_MOST_LETTERS = {"not good": 36_000, "good": 14_000}
"""GitHub takes 65,536 letters of a comment; changes take 10,000 at most."""


def render(name: str, rows: Sequence[Row], causes: Mapping[Outcome, int], changes: Sequence[str]) -> str:
    lines = [f"## {text(name)}: {len(rows)} jobs", ""]
    lines += [f"- {count} {outcome}: {OUTCOME_WORDS[outcome]}" for outcome, count in causes.items()]
    if changes:
        more = len(changes) - _MOST_CHANGES
        shown = [f"- {text(change)}" for change in changes[:_MOST_CHANGES]]
        lines += ["", "**Since the last run**", "", *shown, *([f"- and {more} more"] if more > 0 else [])]
    good = [row for row in rows if row.outcome == Outcome.GOOD]
    others = [row for row in rows if row.outcome != Outcome.GOOD]
    if others:
        cells = [[row.job, row.recipe, row.outcome, _with_notes(row)] for row in others]
        lines += _folded_table("not good", ["job", "recipe", "outcome", "message"], cells)
    if good:
        cells = [[row.job, row.recipe, smaller(row), faster(row), worst_output(row), row.notes] for row in good]
        lines += _folded_table("good", ["job", "recipe", "smaller", "faster", "worst output", "notes"], cells)
    return "\n".join(lines) + "\n"


def _folded_table(what: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """As many of the rows as there is room for."""
    lines = table(head, rows[:_MOST_ROWS])
    shown, letters = 0, 0
    for line in lines[2:]:
        letters += len(line) + 1
        if letters > _MOST_LETTERS[what]:
            break
        shown += 1
    title = f"{len(rows)} {what}" + (f", {shown} shown" if shown < len(rows) else "")
    return folded(title, lines[: 2 + shown])


def _with_notes(row: Row) -> str:
    return f"{row.message} ({row.notes})" if row.notes else row.message
