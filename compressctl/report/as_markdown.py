"""The report as Markdown, fit for a pull-request comment: the verdict first, details folded."""

from __future__ import annotations

from compressctl.core.legible import shortened
from compressctl.report import bundles, decoded, fidelity, paths, sentences
from compressctl.report.document import Report
from compressctl.report.markdown import block, folded, table, text
from compressctl.report.tables import (
    PACKED_HEAD,
    POINTS_HEAD,
    WATERFALL_HEAD,
    budget_title,
    budget_words,
    compact,
    comparison,
    islands,
    node_macs,
    packed,
    points,
    waterfall,
)

_LONGEST_FACTS = 270
"""Characters of what a stage found, so that the hint to the whole stays within a cell."""


def render(report: Report) -> str:
    lines = [f"## {text(report.name)}: {report.status}", ""]
    lines += [f"- {text(sentence)}" for sentence in report.summary]
    if report.error:
        lines += ["", *block(report.error)]
    if report.budget:
        lines += ["", f"**{text(budget_title(report))}**", ""]
        lines += [f"- {'✅' if check.holds else '❌'} {text(budget_words(check))}" for check in report.budget]
    for part in report.backends:
        lines += ["", f"### {text(part.backend)} {text(part.version or '')}", ""]
        rows = [[row.label, row.before, row.after, row.change] for row in comparison(part, report)]
        lines += table(["", "float", "compressed", "change"], rows)
        if stages := waterfall(part, report):
            lines += ["", "After each stage:", "", *table(WATERFALL_HEAD, stages)]
        if rows := decoded.rows(part):
            lines += ["", "Decoded results by class:", "", *table(decoded.HEAD, rows)]
        if rows := fidelity.rows(part):
            lines += ["", "Against the original:", "", *table(fidelity.HEAD, rows)]
        if ways := paths.rows(part, report.metric_unit):
            lines += ["", "Ways that samples took:", "", *table(paths.HEAD, ways)]
        said = (
            sentences.stages(part, report),
            sentences.zeros(part, report),
            fidelity.sentences(part),
            sentences.behaviour(part),
            paths.sentences(part, report.metric_unit),
            sentences.fusion(part),
            sentences.trust(part),
        )
        lines += ["", *(f"- {text(line)}" for found in said for line in found)]
        if part.bundle is not None:
            lines += ["", f"As a bundle for {text(part.bundle.tool)}:", "", *table(bundles.HEAD, bundles.rows(part))]
            lines += ["", *(f"- {text(line)}" for line in bundles.sentences(part))]
        if rows := packed(part):
            lines += folded("Packed for transport", table(PACKED_HEAD, rows))
        if rows := points(part):
            lines += folded("At other batches and threads", table(POINTS_HEAD, rows))
        found = islands(part)
        if found:
            rows = [[shortened(node.name), node.op, node_macs(node), node.rule or ""] for node in found[:20]]
            lines += folded(f"{len(found)} nodes in float", table(["node", "operator", "MACs", "why"], rows))
    if report.stages:
        rows = [
            [
                stage.id,
                stage.use,
                "from the cache" if stage.cached else f"{stage.seconds:.1f} s",
                compact(stage.facts, _LONGEST_FACTS),
            ]
            for stage in report.stages
        ]
        lines += folded("Stages", table(["stage", "technique", "time", "facts"], rows))
    for warning in report.warnings:
        lines += ["", f"> ⚠️ {text(warning)}"]
    lines += folded("Environment", table(["", ""], [[key, str(value)] for key, value in report.environment.items()]))
    return "\n".join(lines) + "\n"
