"""Runs side by side: the same figures of each, each further run held against the first, and what their recipes differ in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.measure.results import Measurement
from compressctl.measure.speed_words import headline, interval
from compressctl.recipe.lock import read_lock
from compressctl.report.between import score_between, size_between, speed_between
from compressctl.report.document import Report
from compressctl.report.fidelity import summary, verdict
from compressctl.report.read import backend_part
from compressctl.report.tables import integer_share, macs, may_be_chance, milliseconds, score_text, size


@dataclass(frozen=True)
class SideBySide:
    """names: of the runs. rows: a label, and a cell for each run. differences: recipe values and the environment's that differ."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    differences: tuple[str, ...]


def side_by_side(runs: Sequence[tuple[Path, Report]], backend: str | None) -> SideBySide:
    """Raises UsageError for less than two runs, and for one that has no figures of that backend."""
    if len(runs) < 2:
        raise UsageError("name two runs or more")
    reports = [report for _, report in runs]
    rows = _rows(reports, [_data(folder, report) for folder, report in runs], backend)
    return SideBySide(
        names=tuple(folder.name for folder, _ in runs),
        rows=tuple((label, tuple(cells)) for label, cells in rows),
        differences=tuple(_differences(reports)),
    )


def _rows(reports: list[Report], data: list[tuple[Any, Any]], backend: str | None) -> list[tuple[str, list[str]]]:
    parts = [backend_part(report, backend) for report in reports]
    after = [part.compressed for part in parts]
    speeds = [file.speed for file in after]
    first, others = after[0], after[1:]
    scores = [
        "other data" if _is_other(data[0], theirs) else score_between(first.score, file.score)
        for file, theirs in zip(others, data[1:], strict=True)
    ]
    models = [report.recipe.get("model") for report in reports]
    sizes = [
        size_between(first, file) if model == models[0] else f"another model: {size_between(first, file)}"
        for file, model in zip(others, models[1:], strict=True)
    ]
    return [
        ("backend", [part.backend for part in parts]),
        ("file size", [size(file.total_bytes) for file in after]),
        ("score", [_score(report, file) for report, file in zip(reports, after, strict=True)]),
        ("lost against its float model", [_lost(file) for file in after]),
        ("latency p50", [milliseconds(file.latency.typical_ms) if file.latency else "" for file in after]),
        ("speed", [headline(speed) if speed else "" for speed in speeds]),
        ("its 95 % interval", [interval(speed) if speed else "" for speed in speeds]),
        ("outputs", [verdict(part) or summary(part) or "" for part in parts]),
        ("size against the first", ["", *sizes]),
        ("score against the first", ["", *scores]),
        ("speed-up against the first", ["", *(speed_between(first.speed, file.speed) for file in others)]),
        ("peak memory", [size(file.memory.run_peak_bytes) if file.memory else "" for file in after]),
        ("MACs of one sample", [macs(file) for file in after]),
        (
            "integer MACs",
            [integer_share(file) for file in after],
        ),
    ]


def _data(run: Path, report: Report) -> tuple[Any, Any]:
    """What the samples are drawn from, and how: the recipe's words without what only decides other splits, then the files'
    hash together with that.
    """
    words = report.recipe.get("data") or {}
    drawn_from = {name: value for name, value in words.items() if name not in ("calibration", "validation")}
    how = [report.recipe.get("seed"), words.get("calibration"), words.get("validation")]
    lock = run / "recipe.lock.yaml"
    return drawn_from, (how, read_lock(lock).get("data_sha256") if lock.is_file() else None)


def _is_other(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Another source, or files that changed: their hash covers the splits too, and so tells only where these are alike."""
    (how, known), (their_how, theirs) = one[1], other[1]
    return bool(one[0] != other[0] or (how == their_how and None not in (known, theirs) and known != theirs))


def _score(report: Report, file: Measurement) -> str:
    return f"{file.score.metric} {score_text(file.score.value, report.metric_unit)}" if file.score else ""


def _lost(file: Measurement) -> str:
    digits = 2 if file.score and file.score.metric == "accuracy" else 4
    return f"{file.change.drop:+.{digits}f}{may_be_chance(file)}" if file.change else ""


def _differences(reports: list[Report]) -> list[str]:
    """Recipe values, and the environment's, that are not the same in every run."""
    flat = [{**_flatten(report.recipe, ""), **_flatten(report.environment, "environment")} for report in reports]
    lines = []
    for path in sorted({path for values in flat for path in values}):
        values = [values.get(path) for values in flat]
        if any(value != values[0] for value in values) and not path.endswith("load_average"):
            lines.append(f"{path}: {' | '.join(str(value) for value in values)}")
    return lines


def _flatten(value: object, path: str) -> dict[str, object]:
    if isinstance(value, dict):
        return {
            key: leaf
            for name, child in value.items()
            for key, leaf in _flatten(child, f"{path}.{name}".lstrip(".")).items()
        }
    if isinstance(value, list):
        return {
            key: leaf for index, child in enumerate(value) for key, leaf in _flatten(child, f"{path}[{index}]").items()
        }
    return {path: value}
