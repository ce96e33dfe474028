"""A diagnosis in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from compressctl.core.errors import shortened as in_full
from compressctl.core.legible import shortened
from compressctl.diagnosis.document import Cause, Diagnosis, Edit, Figures, Row, StageLoss, Trial
from compressctl.measure.results import Measurement
from compressctl.measure.speed_words import headline
from compressctl.report import fidelity
from compressctl.report.document import Report
from compressctl.report.tables import milliseconds, score_text, size

_NAMED = 4


def lines(found: Diagnosis) -> Iterator[str]:
    """From the stages to what was measured."""
    yield f"{found.run} ({found.status}), on {found.samples} {found.split} samples, each stage against the original:"
    for stage in found.stages:
        yield f"  {_stage(stage)}"
    for note in found.notes:
        yield f"note: {note}"
    if found.output is not None:
        whole = "" if found.output.sqnr_db is None else f"{_decibels(found.output.sqnr_db)} as a whole, "
        yield (
            f"output that lost most: {shortened(found.output.name)}, {whole}{_decibels(found.output.channels_db)} in the channels that "
            f"lost most ({_few([str(channel) for channel in found.output.channels])})"
        )
    if found.stage is None:
        yield "little is lost: nothing here that an edit would mend"
        return
    yield f"stage that lost most: {found.stage}"
    for cause in found.causes:
        yield from _cause(cause)
    if not found.causes:
        yield "no cause found: the stage changes the network's structure, so that its layers cannot be compared one by one"
    if found.trials:
        yield f"as it is: {_figures(found.figures)}"
    for trial in found.trials:
        yield from _trial(trial)
    if found.edits:
        yield "edit of the recipe that mends it:"
        yield from (f"  {_edit(edit)}" for edit in found.edits)
    yield from found.advice
    if found.measured:
        yield "the exported files on the test split, the run's and the edited recipe's:"
        yield from (f"  {row.label}: {row.before or '-'} -> {row.after or '-'}" for row in found.measured)


def _stage(stage: StageLoss) -> str:
    name = f"{stage.id} ({stage.use})"
    if stage.error:
        return f"{name}: failed: {in_full(stage.error)}"
    kept = f"; not kept: {in_full(stage.refused)}" if stage.refused else ""
    return f"{name}: {_decibels(stage.sqnr_db)}{kept}"


def _decibels(value: float | None) -> str:
    return "nothing lost" if value is None else f"{round(value, 1) + 0.0:.1f} dB"


def _cause(cause: Cause) -> Iterator[str]:
    share = "" if cause.share is None else f", {min(cause.share, 1.0):.0%} of the noise by itself"
    yield f"cause: {cause.name} in {shortened(cause.tensor)}{share}"
    yield f"  {in_full(cause.evidence)}"
    if cause.layers:
        yield f"  layers: {_few([shortened(layer) for layer in cause.layers])}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _trial(trial: Trial) -> Iterator[str]:
    yield f"tried for {trial.cause}:"
    yield from (f"  {_edit(edit)}" for edit in trial.edits)
    if trial.figures is None:
        yield f"  it fails: {in_full(trial.error)}"
    else:
        yield f"  {'mends' if trial.mends else 'does not mend'}: {_figures(trial.figures)}"


def _figures(found: Figures | None) -> str:
    if found is None:
        return "it fails"
    parts = [_decibels(found.sqnr_db)]
    if found.kept is not None and found.added is not None:
        parts.append(f"{found.kept:.2f} % kept, {found.added:.2f} % added")
    if found.drop is not None:
        parts.append(f"the metric loses {found.drop:.4g}")
    if found.refused:
        parts.append(f"not kept: {in_full(found.refused)}")
    return ", ".join(parts)


def _edit(edit: Edit) -> str:
    if isinstance(edit.after, list) and isinstance(edit.before, list):
        added = [_value(entry) for entry in edit.after if entry not in edit.before]
        return f"{edit.path}: with {_few(added)}"
    return f"{edit.path}: {_value(edit.before)} -> {_value(edit.after)}"


def _value(value: Any) -> str:
    return in_full(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 400)


def rows(before: tuple[Report, Figures | None], after: tuple[Report, Figures | None]) -> tuple[Row, ...]:
    """Of the first exported file of each run, and of the same on the test split, those figures that either has."""
    reports, figures = (before[0], after[0]), (before[1], after[1])
    files = [report.backends[0].compressed if report.backends else None for report in reports]
    cells: dict[str, list[str | None]] = {
        "channels that lost most": [None if found is None else _decibels(found.sqnr_db) for found in figures],
        "file size": [None if file is None else size(file.total_bytes) for file in files],
        "score": [_score(file, report.metric_unit) for file, report in zip(files, reports, strict=True)],
        "results": [fidelity.summary(report.backends[0]) if report.backends else None for report in reports],
        "latency": [
            None if file is None or file.latency is None else milliseconds(file.latency.typical_ms) for file in files
        ],
        "against the float file": [
            None if file is None or file.speed is None else headline(file.speed) for file in files
        ],
        "ended": [report.status for report in reports],
    }
    return tuple(
        Row(label=label, before=found[0] or "", after=found[1] or "") for label, found in cells.items() if any(found)
    )


def _score(file: Measurement | None, unit: str) -> str | None:
    return None if file is None or file.score is None else f"{file.score.metric} {score_text(file.score.value, unit)}"
