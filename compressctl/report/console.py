"""The report on a terminal: a table that a person understands in ten seconds."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compressctl.report.document import Report
from compressctl.report.tables import behaviour, budget_words, comparison, islands

_SHOWN_ISLANDS = 5


def render(report: Report) -> RenderableType:
    parts: list[RenderableType] = []
    for part in report.backends:
        table = Table(title=Text(f"{report.name} on {part.backend} {part.version or ''}"), title_justify="left")
        table.add_column("")
        for head in ("float", "compressed"):
            table.add_column(head, justify="right")
        table.add_column("change")
        for row in comparison(part, report):
            table.add_row(*(Text(cell) for cell in (row.label, row.before, row.after, row.change)))
        parts.append(table)
        parts += [Text(line) for line in behaviour(part)]
        found = islands(part)
        if found:
            parts.append(Text(f"{len(found)} nodes run in float:"))
            parts += [Text(f"  {node.name} ({node.op}): {node.rule}") for node in found[:_SHOWN_ISLANDS]]
    parts += [Text(f"{'ok    ' if check.holds else 'MISSED'}  {budget_words(check)}") for check in report.budget]
    parts += [Text(f"warning: {message}") for message in report.warnings]
    parts += [Text(sentence, style="bold") for sentence in report.summary]
    return Group(*parts)
