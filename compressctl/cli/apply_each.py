"""compressctl apply on a recipe for several files that work together: a run for each, and one report of all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressctl.cli.boundary import tell
from compressctl.core.errors import ExitCode

if TYPE_CHECKING:
    from compressctl.pipeline.plan import Plan
    from compressctl.recipe.schema import Recipe
    from compressctl.report.document import Report

Prepare = Callable[[Sequence[str]], "tuple[Recipe, Plan]"]
"""The recipe with more `--set`, and its plan."""

CarryOut = Callable[["Recipe", "Plan", Path], "Report"]
"""A run in a folder."""


def apply_each(names: Sequence[str], output: Path | None, prepare: Prepare, carry_out: CarryOut) -> ExitCode:
    """Compress the files in this order, each judged together with those that are compressed already, and report all.

    The last one's end results are those of all compressed files against all original ones. What stops one stops the rest.
    """
    compressed: dict[str, str] = {}
    reports: dict[str, Report] = {}
    for name in names:
        recipe, plan = prepare([f"pipeline.role={json.dumps(name)}", f"pipeline.compressed={json.dumps(compressed)}"])
        if output is None:
            output = Path("runs") / recipe.name / f"{time.strftime('%Y%m%d-%H%M%S')}-{plan.digest[:8]}"
        reports[name] = report = carry_out(recipe, plan, output / name)
        if not report.backends:
            tell(f"{name} was not compressed, so that the files after it were not begun")
            return ExitCode(report.exit_code)
        compressed[name] = str((output / name / report.backends[0].compressed.path).resolve())
    assert output is not None
    text = "\n".join(_together(reports))
    (output / "report.md").write_text(text + "\n")
    tell(text)
    return ExitCode(max(report.exit_code for report in reports.values()))


def _together(reports: dict[str, Report]) -> list[str]:
    """A title, the end result, and a row for each file, in Markdown."""
    from compressctl.report.tables import score_text, size, size_change, speed_headline

    last = list(reports.values())[-1]
    before, after = last.backends[0].baseline, last.backends[0].compressed
    lines = [f"# {last.name}: {', '.join(reports)}", ""]
    if before.score is not None and after.score is not None:
        was, now = (score_text(found.value, last.metric_unit) for found in (before.score, after.score))
        split = f"on {after.score.samples:,} test samples"
        lines.append(
            f"With all original files and with all compressed ones, {split}: {after.score.metric} {was}, then {now}."
        )
    if after.decoded is not None and after.decoded.reference:
        found = after.decoded
        lines.append(f"Of {found.reference:,} {found.unit} {found.kept:,} are kept, {found.added:,} are added.")
    lines += ["", "| file | size | | speed of the file |", "|---|---|---|---|"]
    totals = [0, 0]
    for name, report in reports.items():
        part = report.backends[0]
        sizes = (part.baseline.total_bytes, part.compressed.total_bytes)
        totals = [total + of_file for total, of_file in zip(totals, sizes, strict=True)]
        speed = "" if part.compressed.speed is None else speed_headline(part.compressed.speed)
        lines.append(f"| {name} | {size(sizes[0])}, then {size(sizes[1])} | {size_change(part.smaller)} | {speed} |")
    change = size_change(totals[0] / max(totals[1], 1))
    return [*lines, f"| all | {size(totals[0])}, then {size(totals[1])} | {change} | |"]
