"""compressctl reproduce: run a lock file again and say what differs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressctl.pipeline.measure_level import MeasureLevel

if TYPE_CHECKING:
    from compressctl.measure.results import Measurement
    from compressctl.recipe.schema import Recipe
    from compressctl.report.document import Report


def reproduce(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, which holds recipe.lock.yaml and report.json, or that lock file.", metavar="RUN"
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the new run. [default: RUN-reproduced]", show_default=False)
    ] = None,
    measure: Annotated[MeasureLevel, typer.Option(help="How much is measured, as for apply.")] = MeasureLevel.FINAL,
) -> None:
    """Run a finished run's recipe again from its lock file, without the cache, and say what differs.

    Scores, flips and sizes must be equal, speed-ups must have overlapping intervals. Exit code 0 when they are, 1 when not.

    \b
    Examples:
      compressctl reproduce runs/model/20261126-131803-bce8143f --measure quick
      compressctl reproduce recipe.lock.yaml
    """
    import sys

    from compressctl.api import carry_out
    from compressctl.core.errors import ExitCode, UsageError
    from compressctl.pipeline.event_listeners import PlainLines
    from compressctl.pipeline.plan import make_plan
    from compressctl.recipe.lock import changed_sources, load_lock
    from compressctl.report.read import read_report

    run = (run.parent if run.name == "recipe.lock.yaml" else run).absolute()
    before = read_report(run)
    if not before.backends:
        raise UsageError(f"{run} ended before anything was measured ({before.status})")
    recipe, locked = load_lock(run / "recipe.lock.yaml")
    into = output or run.with_name(f"{run.name}-reproduced")
    result, after, _ = carry_out(
        recipe, make_plan(recipe, None), [PlainLines(sys.stdout)], output=into, measure=measure
    )
    if result.error is not None:
        raise result.error
    for line in [
        *changed_sources(locked, load_lock(result.folder / "recipe.lock.yaml")[1]),
        *_changed_environment(locked.get("environment", {}), after.environment),
        *_draws(recipe),
    ]:
        print(f"note: {line}")
    differences = list(_differences(before, after))
    for line in differences or [
        "reproduced: scores, flips and sizes are equal, speed-ups agree within their intervals"
    ]:
        print(line)
    if differences:
        raise typer.Exit(int(ExitCode.BUDGET_MISSED))


def _changed_environment(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    names = sorted({*before, *after} - {"load_average"})
    return [
        f"{name} was {before.get(name)}, is {after.get(name)}" for name in names if before.get(name) != after.get(name)
    ]


def _draws(recipe: Recipe) -> list[str]:
    """Stages whose results this machine, and another clock, may give otherwise although nothing changed."""
    from compressctl.core.needs import Need, declared_needs
    from compressctl.core.technique import techniques
    from compressctl.pipeline.plan import if_slower
    from compressctl.recipe.order import resolve_target

    stages, target = [stage for stage in recipe.stages if stage.enabled], resolve_target(recipe)
    trained = [stage.id for stage in stages if Need.TRAINING_DATA in declared_needs(stage.params).requires]
    timed = [
        stage.id
        for stage in stages
        if Need.LATENCY in declared_needs(stage.params) or if_slower(stage, techniques.get(stage.use), target) != "keep"
    ]
    lines = []
    if trained:
        lines.append(
            f"trained in {', '.join(trained)}: bits depend on the processor, the number of threads and the build of torch; elsewhere a "
            "repeat is another draw, whose score differs by some tenths of a point"
        )
    if timed:
        lines.append(f"decided by a clock in {', '.join(timed)}: another machine, or a busy one, may decide otherwise")
    return lines


def _differences(before: Report, after: Report) -> list[str]:
    from compressctl.measure.speed_words import sentence

    lines = []
    for old in before.backends:
        new = next((part for part in after.backends if part.backend == old.backend), None)
        if new is None:
            lines.append(f"{old.backend}: not in the new run")
            continue
        for name in ("baseline", "compressed"):
            was, is_ = getattr(old, name), getattr(new, name)
            if was.score and is_.score and was.score.value != is_.score.value:
                lines.append(f"{old.backend} {name}: {was.score.metric} was {was.score.value}, is {is_.score.value}")
            lines += [f"{old.backend} {name}: {words}" for words in _flips(was, is_)]
            if was.total_bytes != is_.total_bytes:
                lines.append(f"{old.backend} {name}: size was {was.total_bytes}, is {is_.total_bytes} bytes")
        one, two = old.compressed.speed, new.compressed.speed
        if one and two and (one.high < two.low or two.high < one.low):
            lines.append(f"{old.backend}: was {sentence(one)}, is {sentence(two)}")
    return lines


def _flips(was: Measurement, is_: Measurement) -> list[str]:
    """Predictions can differ although as many are right."""
    if was.change is None or is_.change is None:
        return []
    pairs = [
        ("right to wrong flips", was.change.right_to_wrong, is_.change.right_to_wrong),
        ("wrong to right flips", was.change.wrong_to_right, is_.change.wrong_to_right),
        ("changed predictions", was.change.disagreements, is_.change.disagreements),
    ]
    return [f"{what} were {one}, are {two}" for what, one, two in pairs if one != two]
