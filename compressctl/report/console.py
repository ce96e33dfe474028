"""The report on a terminal: a table that a person understands in ten seconds."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compressctl.core.legible import legible, shortened
from compressctl.report import bundles, decoded, fidelity, paths, sentences, tables
from compressctl.report.document import Report

_SHOWN_ISLANDS = 5


def render(report: Report) -> RenderableType:
    parts: list[RenderableType] = []
    for part in report.backends:
        title = f"{report.name} on {part.backend} {part.version or ''}"
        rows = [(row.label, row.before, row.after, row.change) for row in tables.comparison(part, report)]
        parts.append(_table(title, ("", "float", "compressed", "change"), rows))
        if stages := tables.waterfall(part, report):
            parts.append(_table("after each stage", tables.WATERFALL_HEAD, stages))
        if part.bundle is not None:
            parts.append(_table(f"as a bundle for {part.bundle.tool}", bundles.HEAD, bundles.rows(part)))
        if packed := tables.packed(part):
            parts.append(_table("packed for transport", tables.PACKED_HEAD, packed))
        if classes := decoded.rows(part):
            parts.append(_table("decoded results by class", decoded.HEAD, classes))
        if outputs := fidelity.rows(part):
            parts.append(_table("against the original", fidelity.HEAD, outputs))
        if ways := paths.rows(part, report.metric_unit):
            parts.append(_table("ways that samples took", paths.HEAD, ways))
        if points := tables.points(part):
            parts.append(_table("at other batches and threads", tables.POINTS_HEAD, points))
        said = (
            sentences.stages(part, report),
            sentences.zeros(part, report),
            fidelity.sentences(part),
            bundles.sentences(part),
            sentences.behaviour(part),
            paths.sentences(part, report.metric_unit),
            sentences.fusion(part),
            sentences.trust(part),
        )
        parts += [_text(line) for lines in said for line in lines]
        found = tables.islands(part)
        parts += [_text(f"  {shortened(node.name)} ({node.op}): {node.rule}") for node in found[:_SHOWN_ISLANDS]]
    if report.budget and len(report.backends) > 1:
        parts.append(_text(f"{tables.budget_title(report)}:"))
    parts += [
        _text(f"{'ok    ' if check.holds else 'MISSED'}  {tables.budget_words(check)}") for check in report.budget
    ]
    parts += [_text(f"warning: {message}") for message in report.warnings]
    parts += [_text(sentence, style="bold") for sentence in report.summary]
    return Group(*parts)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Words on the outside, figures in between, which align to the right."""
    table = Table(title=_text(title), title_justify="left")
    for position, name in enumerate(head):
        table.add_column(name, justify="left" if position in (0, len(head) - 1) else "right")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    return table


def _text(value: str, style: str = "") -> Text:
    """Neither rich's markup nor a terminal's escapes have a meaning in it."""
    return Text(legible(value), style=style)
