"""compressctl apply: run a recipe."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressctl.cli.boundary import tell
from compressctl.cli.options import RecipePath, Sets, Shapes, SharedCacheAddress, SharedCacheMode, Unsets
from compressctl.core.errors import RenamedWarning, UsageError, in_short
from compressctl.pipeline.measure_level import MeasureLevel

if TYPE_CHECKING:
    from compressctl.core.cache import Cache
    from compressctl.pipeline.event_listeners import TimeLimit
    from compressctl.pipeline.plan import Plan
    from compressctl.pipeline.process_group import ProcessGroup
    from compressctl.recipe.schema import Recipe
    from compressctl.report.document import Report


class LogFormat(StrEnum):
    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    JSON = "json"


def apply(
    recipe: RecipePath,
    sets: Sets = None,
    unsets: Unsets = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for this run. [default: runs/<name>/<time>-<hash>]", show_default=False)
    ] = None,
    cache: Annotated[
        bool, typer.Option("--resume/--no-cache", help="Take finished stages from the cache, or run everything again.")
    ] = True,
    log_format: Annotated[
        LogFormat, typer.Option(help="How progress is shown: live, plain lines, or one JSON event per line.")
    ] = LogFormat.AUTO,
    measure: Annotated[
        MeasureLevel,
        typer.Option(
            help="What is measured: each stage's output too, the exported files alone, those at the target's batch and threads alone, so but "
            "briefly, or the files without latency."
        ),
    ] = MeasureLevel.STAGES,
    shape: Shapes = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with 1 where outputs differ from the original's, or were not compared."),
    ] = False,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="End the run after so long, as in 90s, 30m or 1h30m, with what is finished.",
            show_default=False,
        ),
    ] = None,
    shared_cache: SharedCacheAddress = None,
    shared_cache_mode: SharedCacheMode = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and plan, then stop.")] = False,
) -> None:
    """Run a recipe: compress, export, measure the exported file, and report.

    The exit code says how it went: `compressctl --help` lists the codes. A run that was stopped continues where it was
    when it is started again. A recipe with a section `search` instead of stages searches, in auto/<recipe>, as `compressctl auto` does.

    \b
    Examples:
      compressctl apply builtin:quickstart
      compressctl apply model.yaml --set stages.int8.ranges=mse --set target.threads=2
      compressctl apply model.yaml --output run --measure quick --log-format json
      compressctl apply model.yaml --time-limit 30m
    """
    from compressctl.cli.limits import time_limit_of
    from compressctl.pipeline.event_listeners import TimeLimit
    from compressctl.pipeline.plan import make_plan
    from compressctl.pipeline.process_group import is_launched, rank
    from compressctl.recipe.loader import load
    from compressctl.recipe.set_of_files import files_of
    from compressctl.store.cache_place import stage_cache, use_shared_cache

    limit = TimeLimit(time_limit_of(time_limit)) if time_limit is not None else None
    use_shared_cache(shared_cache, shared_cache_mode)
    place = stage_cache() if cache else None

    def prepare(more: Sequence[str] = ()) -> tuple[Recipe, Plan]:
        asked = [*(sets or ()), *more]
        loaded = load(recipe, [*asked, *_shape_sets(recipe, shape or (), asked, unsets or ())], unsets or ())
        return loaded, make_plan(loaded, place)

    if _searches(recipe, sets or (), unsets or ()):
        from compressctl.cli.auto import apply_search
        from compressctl.measure.samples import parse_shapes

        _refuse_beside_search(
            {
                "--strict": strict,
                "--dry-run": dry_run,
                "--measure": measure is not MeasureLevel.STAGES,
                "--log-format json": log_format is LogFormat.JSON,
                "several processes": is_launched(),
            },
        )
        shapes = parse_shapes(shape or ())
        raise typer.Exit(apply_search(recipe, sets or (), unsets or (), shapes, output, time_limit, cache=cache))
    names = files_of(recipe, sets or (), unsets or ())
    if names and (is_launched() or dry_run):
        what = "--dry-run shows one plan" if dry_run else "several processes train one model"
        hint = f"take one after the other: --set pipeline.role={names[0]}"
        raise UsageError(f"the recipe compresses {', '.join(names)}, and {what}", hint=hint)
    if names:
        from compressctl.cli.apply_each import apply_each

        def carry_out(loaded: Recipe, plan: Plan, folder: Path) -> Report:
            return run_and_show(loaded, plan, folder, place, _resolve(log_format), measure, None, strict, recipe, limit)

        raise typer.Exit(apply_each(names, output, prepare, carry_out))
    if rank() > 0:
        warnings.simplefilter("ignore", RenamedWarning)  # the leader says it
        from compressctl.pipeline.process_group import assemble
        from compressctl.pipeline.worker import follow

        raise typer.Exit(follow(prepare, place, assemble()))
    with _leading() if is_launched() else nullcontext() as process_group:
        loaded, plan = prepare()
        if dry_run:
            from compressctl.cli.plan import show

            show(plan)
            raise typer.Exit
        report = run_and_show(
            loaded, plan, output, place, _resolve(log_format), measure, process_group, strict, recipe, limit
        )
        raise typer.Exit(report.exit_code)


def _searches(recipe: Path, sets: Sequence[str], unsets: Sequence[str]) -> bool:
    """Whether the recipe says what to look for instead of stages."""
    from compressctl.recipe.compose import compose

    return compose(recipe, sets, unsets).root.child("search") is not None


def _refuse_beside_search(given: Mapping[str, bool]) -> None:
    """Raises UsageError for what says nothing to a search."""
    named = [what for what, is_given in given.items() if is_given]
    if named:
        raise UsageError(
            f"{', '.join(named)}: not for a recipe with a section `search`",
            hint="leave it out; the run that the search hands over is in `best`, in its folder",
        )


def _shape_sets(recipe: Path, shapes: Sequence[str], sets: Sequence[str], unsets: Sequence[str]) -> list[str]:
    """--shape as what --set would say: the recipe's own target.shapes stay where they are not named."""
    if not shapes:
        return []
    import json

    from compressctl.measure.samples import parse_shapes
    from compressctl.recipe.loader import read

    asked = {**read(recipe, sets, unsets)[0].target.shapes, **parse_shapes(shapes)}
    return [f"target.shapes={json.dumps(asked)}"]


@contextmanager
def _leading() -> Iterator[ProcessGroup]:
    """The processes that a launcher started beside this one; they are told how the run ended."""
    from compressctl.core.failures import exit_code
    from compressctl.pipeline.process_group import assemble
    from compressctl.pipeline.signals import ignore_ending_signals

    process_group, code = assemble(), 0
    try:
        yield process_group
    except typer.Exit as done:
        code = done.exit_code
        raise
    except BaseException as error:
        code = int(exit_code(error))
        raise
    finally:
        ignore_ending_signals()
        process_group.end(code)


def _resolve(asked: LogFormat) -> LogFormat:
    if asked is not LogFormat.AUTO:
        return asked
    return LogFormat.RICH if sys.stdout.isatty() else LogFormat.PLAIN


def run_and_show(
    recipe: Recipe,
    plan: Plan,
    output: Path | None,
    cache: Cache | None,
    log_format: LogFormat,
    measure: MeasureLevel,
    process_group: ProcessGroup | None,
    strict: bool,
    recipe_file: Path | None,
    limit: TimeLimit | None,
) -> Report:
    """Run it, show its progress and its report, which holds the exit code."""
    from compressctl.api import carry_out
    from compressctl.pipeline.event_listeners import JsonLines, PlainLines
    from compressctl.report.write import add_to_job_summary

    if log_format is LogFormat.RICH:
        from compressctl.cli.progress import LiveView

        view: Any = LiveView(plan)
    else:
        view = nullcontext(JsonLines(sys.stdout) if log_format is LogFormat.JSON else PlainLines(sys.stdout))
    with view as listener:
        result, report, written = carry_out(
            recipe,
            plan,
            [listener, *([limit] if limit is not None else [])],
            output=output,
            cache=cache,
            measure=measure,
            process_group=process_group,
            strict=strict,
            recipe_file=recipe_file,
        )
    try:
        add_to_job_summary(report)
    except OSError as error:
        tell(f"warning: the job's summary page cannot be written: {in_short(error)}")
    if log_format is not LogFormat.JSON:
        from compressctl.cli.screen import Screen
        from compressctl.report.console import render

        console = Screen()
        console.print(render(report))
        console.print(f"report: {written[-1]}", markup=False, soft_wrap=True)
    if result.error is not None:
        tell(f"error: {result.error}")
    elif result.status in ("interrupted", "time limit"):
        tell(report.summary[0])
    return report
