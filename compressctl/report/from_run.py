"""The report's document, made from what a run brought."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from compressctl.core.errors import ExitCode
from compressctl.core.legible import shortened
from compressctl.core.run_folder import below
from compressctl.core.secrets import for_others
from compressctl.core.source import MetricSpec
from compressctl.measure.results import Change, Score
from compressctl.pipeline.result import RunResult
from compressctl.report import bundles, fidelity
from compressctl.report.document import Report, Stage
from compressctl.report.sentences import lost_classes, packed_words
from compressctl.report.tables import may_be_chance, score_text, size_change, speed_headline
from compressctl.tasks.judge import metric_of


def from_result(result: RunResult, recipe_file: Path | None = None) -> Report:
    """The document of a run, whole or in part. recipe_file: what the user named, for those who look for its place.

    A path below the working folder, which in a CI job is the repository's root, is told from there.
    """
    name, metric = result.recipe.metric_name, metric_of(result.recipe, result.recipe.base)
    report = Report(
        name=result.recipe.name,
        status=result.status,
        exit_code=int(exit_code(result)),
        error=str(result.error) if result.error else None,
        summary=_summary(result, metric),
        started=result.started,
        seconds=result.seconds,
        metric=name,
        metric_unit=metric.unit if metric else "",
        backends=result.backends,
        budget=result.budget,
        stages=tuple(Stage.model_validate(record) for record in result.stages),
        not_done=result.not_done,
        parity=result.parity,
        warnings=result.warnings,
        environment=dict(result.environment),
        recipe=result.recipe.resolved,
        recipe_file=_from_here(recipe_file) if recipe_file else None,
    )
    return Report.model_validate(for_others(report.model_dump()))


def _from_here(recipe_file: Path) -> str | None:
    """None for what is no file, as builtin:quickstart, and where the working folder is gone."""
    with suppress(OSError):
        return below(recipe_file.resolve(), Path.cwd()) if recipe_file.is_file() else None
    return None


def exit_code(result: RunResult) -> ExitCode:
    if result.status == "interrupted":
        return ExitCode.INTERRUPTED
    if result.status == "time limit":
        return ExitCode.TIME_LIMIT
    if result.error is not None:
        return result.error.exit_code
    return ExitCode.BUDGET_MISSED if result.status == "budget missed" else ExitCode.DONE


def _summary(result: RunResult, metric: MetricSpec | None) -> list[str]:
    if result.status in ("interrupted", "time limit"):
        how = "was interrupted" if result.status == "interrupted" else "came to its time limit"
        left = f" Not done: {', '.join(result.not_done)}." if result.not_done else ""
        return [f"The run {how}; what it had done is below, and running it again resumes from there.{left}"]
    sentences = []
    if result.error is not None:
        sentences.append("The run failed; what it had done is below.")
    for part in result.backends:
        after = part.compressed
        verdict, nearness = fidelity.verdict(part), fidelity.summary(part)
        words = [*([verdict] if verdict else []), size_change(part.smaller)]
        if after.speed is not None:
            words.append(speed_headline(after.speed))
        if after.change is not None and metric is not None:
            words.append(
                _drop_words(part.baseline.score, after.score, after.change, metric.name, metric.unit)
                + may_be_chance(after)
            )
        was = {head.name: head.score for head in part.baseline.heads}
        words += [
            f"{shortened(head.name)} {_drop_words(was.get(head.name), head.score, head.change, head.score.metric, head.unit)}"
            for head in after.heads
            if head.change is not None and head.score is not None
        ]
        if verdict is None and nearness is not None:
            words.append(nearness)
        if bundled := bundles.summary(part):
            words.append(bundled)
        # What differs comes before whatever was gained.
        sentences.append(f"{', '.join(words)} ({part.backend})." if verdict else f"{part.backend}: {', '.join(words)}.")
        sentences += packed_words(part)
        sentences += lost_classes(part)
    missed = [check.name for check in result.budget if not check.holds]
    if missed:
        sentences.append(f"Budget missed: {', '.join(missed)}.")
    elif result.budget and result.error is None:
        sentences.append("Inside the budget.")
    return sentences


def _drop_words(before: Score | None, after: Score | None, change: Change, metric: str, unit: str) -> str:
    """Points for a metric in percent; both values of another, whose difference alone says little."""
    assert before is not None
    assert after is not None
    if unit != "%":
        was, now = (score_text(found.value, unit) for found in (before, after))
        return f"{metric} unchanged ({was})" if was == now else f"{metric} {was} -> {now}"
    if round(abs(change.drop), 2) == 0:
        return f"{metric} unchanged"
    return f"{metric} {'up' if after.value > before.value else 'down'} {abs(change.drop):.2f} points"
