"""The report as Markdown, fit for a pull-request comment: the verdict first, details folded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from compressctl.core.legible import legible, shortened
from compressctl.report import decoded, fidelity, sentences
from compressctl.report.document import Report
from compressctl.report.tables import (
    PACKED_HEAD,
    POINTS_HEAD,
    WATERFALL_HEAD,
    budget_title,
    budget_words,
    comparison,
    islands,
    node_macs,
    packed,
    points,
    waterfall,
)

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>#|~&$"})


_MENTION = re.compile(r"(?<![\w])@(?=\w)")
"""Where GitHub and GitLab notify somebody; a backslash does not keep them from it."""


def render(report: Report) -> str:
    lines = [f"## {_text(report.name)}: {report.status}", ""]
    lines += [f"- {_text(sentence)}" for sentence in report.summary]
    if report.error:
        lines += ["", "```text", _MENTION.sub("＠", legible(report.error)).replace("```", "'''"), "```"]
    if report.budget:
        lines += ["", f"**{_text(budget_title(report))}**", ""]
        lines += [f"- {'✅' if check.holds else '❌'} {_text(budget_words(check))}" for check in report.budget]
    for part in report.backends:
        lines += ["", f"### {_text(part.backend)} {_text(part.version or '')}", ""]
        rows = [[row.label, row.before, row.after, row.change] for row in comparison(part, report)]
        lines += _table(["", "float", "compressed", "change"], rows)
        if stages := waterfall(part, report):
            lines += ["", "After each stage:", "", *_table(WATERFALL_HEAD, stages)]
        if rows := decoded.rows(part):
            lines += ["", "Decoded results by class:", "", *_table(decoded.HEAD, rows)]
        if rows := fidelity.rows(part):
            lines += ["", "Against the original:", "", *_table(fidelity.HEAD, rows)]
        said = (
            sentences.stages(part, report),
            sentences.zeros(part, report),
            fidelity.sentences(part),
            sentences.behaviour(part),
            sentences.fusion(part),
            sentences.trust(part),
        )
        lines += ["", *(f"- {_text(line)}" for found in said for line in found)]
        if rows := packed(part):
            lines += _folded("Packed for transport", _table(PACKED_HEAD, rows))
        if rows := points(part):
            lines += _folded("At other batches and threads", _table(POINTS_HEAD, rows))
        found = islands(part)
        if found:
            rows = [[shortened(node.name), node.op, node_macs(node), node.rule or ""] for node in found[:20]]
            lines += _folded(f"{len(found)} nodes in float", _table(["node", "operator", "MACs", "why"], rows))
    if report.stages:
        rows = [
            [
                stage.id,
                stage.use,
                "from the cache" if stage.cached else f"{stage.seconds:.1f} s",
                json.dumps(stage.facts, default=str),
            ]
            for stage in report.stages
        ]
        lines += _folded("Stages", _table(["stage", "technique", "time", "facts"], rows))
    for warning in report.warnings:
        lines += ["", f"> ⚠️ {_text(warning)}"]
    lines += _folded("Environment", _table(["", ""], [[key, str(value)] for key, value in report.environment.items()]))
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows),
    ]


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"<details><summary>{_text(title)}</summary>", "", *lines, "", "</details>"]


def _text(value: str) -> str:
    """User strings as they are, whatever Markdown or HTML would make of them, on one line and not endless."""
    flat = " ".join(legible(value).split())
    return _MENTION.sub("＠", flat if len(flat) <= 300 else flat[:299] + "…").translate(_SPECIAL)
