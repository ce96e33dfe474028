"""A search as Markdown, fit for a pull-request comment: the verdict first, details folded."""

from __future__ import annotations

from compressctl.report.markdown import folded, table, text
from compressctl.search import words
from compressctl.search.document import Search


def render(found: Search) -> str:
    lines = [f"## {text(found.name)}: {found.status}", "", *(f"- {text(line)}" for line in found.summary)]
    lines += ["", text(found.judged)]
    if rows := words.rows(found):
        lines += ["", *table(words.HEAD, rows)]
    if rows := words.predicted_rows(found):
        told = ["", text(words.prediction_error(found)), "", *table(words.PREDICTED_HEAD, rows)]
        lines += folded("Foretold, and measured", told)
    if rows := words.failed_rows(found):
        lines += folded(f"{len(rows)} that gave nothing", table(words.FAILED_HEAD, rows))
    if rows := words.not_tried_rows(found):
        lines += folded(f"{len(rows)} that were not tried", table(words.NOT_TRIED_HEAD, rows))
    lines += folded("Time", table(words.TIME_HEAD, words.time_rows(found)))
    lines += [line for note in found.notes for line in ("", f"> {text(note)}")]
    return "\n".join(lines) + "\n"
