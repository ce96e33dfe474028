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
"""GitHub takes 65,536 letters of a comment."""


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
        shown_rows = [[row.job, row.recipe, row.outcome, row.message] for row in others[:_MOST_ROWS]]
        lines += folded(_title("not good", others), table(["job", "recipe", "outcome", "message"], shown_rows))
    if good:
        shown_rows = [[row.job, row.recipe, smaller(row), faster(row), worst_output(row)] for row in good[:_MOST_ROWS]]
        lines += folded(_title("good", good), table(["job", "recipe", "smaller", "faster", "worst output"], shown_rows))
    return "\n".join(lines) + "\n"


def _title(what: str, rows: Sequence[Row]) -> str:
    return f"{len(rows)} {what}" + (f", {_MOST_ROWS} shown" if len(rows) > _MOST_ROWS else "")
