"""compressctl apply: run a recipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressctl.cli.options import RecipePath, Sets, Shapes, Unsets
from compressctl.pipeline.effort import Measure

if TYPE_CHECKING:
    from compressctl.core.cache import Cache
    from compressctl.core.events import Listener
    from compressctl.pipeline.crew import Crew
    from compressctl.pipeline.plan import Plan
    from compressctl.pipeline.result import RunResult
    from compressctl.recipe.schema import Recipe


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
        Measure,
        typer.Option(help="What is measured: each stage's output too, the exported files alone, or those but briefly."),
    ] = Measure.STAGES,
    shape: Shapes = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with 1 where outputs differ from the original's, or were not compared."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and plan, then stop.")] = False,
) -> None:
    """Run a recipe: compress, export, measure the exported file, and report.

    The exit code says how it went: 0 done and inside the budget, 1 a budget or gate missed, 2 recipe or usage,
    3 something optional is not installed, 4 a stage failed, 130 interrupted. A run that was stopped continues where it
    was when it is started again.
    """
    from compressctl.pipeline.cache_place import stage_cache
    from compressctl.pipeline.crew import is_launched, rank
    from compressctl.pipeline.plan import make_plan
    from compressctl.recipe.loader import load

    place = stage_cache() if cache else None
    sets = [*(sets or ()), *_shape_sets(recipe, shape or (), sets or (), unsets or ())]
    if rank() > 0:
        raise typer.Exit(_follow(recipe, sets, unsets or (), place, dry_run))
    loaded = load(recipe, sets, unsets or ())
    plan = make_plan(loaded, place)
    if dry_run:
        from compressctl.cli.plan import show

        show(plan)
        return
    with _leading() if is_launched() else nullcontext() as crew:
        result = _run(loaded, plan, output, place, _resolve(log_format), measure, crew, strict=strict)
        raise typer.Exit(_report(result, recipe, _resolve(log_format)))


def _shape_sets(recipe: Path, shapes: Sequence[str], sets: Sequence[str], unsets: Sequence[str]) -> list[str]:
    """--shape as what --set would say: the recipe's own target.shapes stay where they are not named."""
    if not shapes:
        return []
    import json

    from compressctl.measure.samples import parse_shapes
    from compressctl.recipe.loader import load

    asked = {**load(recipe, sets, unsets).target.shapes, **parse_shapes(shapes)}
    return [f"target.shapes={json.dumps(asked)}"]


def apply_recipe(recipe: Recipe, output: Path | None, measure: Measure) -> RunResult:
    """Run a loaded recipe from the start, with plain lines of progress."""
    from compressctl.pipeline.plan import make_plan

    return _run(recipe, make_plan(recipe, None), output, None, LogFormat.PLAIN, measure)


def _follow(recipe: Path, sets: Sequence[str], unsets: Sequence[str], cache: Cache | None, dry_run: bool) -> int:
    """Take part in another process's run, without a word: that one says everything, errors in the recipe too."""
    from compressctl.core.errors import CompressctlError
    from compressctl.pipeline.crew import assemble
    from compressctl.pipeline.plan import make_plan
    from compressctl.recipe.loader import load

    try:
        loaded = load(recipe, sets, unsets)
        plan = make_plan(loaded, cache)
    except CompressctlError as error:
        return int(error.exit_code)
    if dry_run:
        return 0
    from compressctl.pipeline.follow import follow

    return follow(loaded, plan, cache, assemble())


@contextmanager
def _leading() -> Iterator[Crew]:
    """The processes that a launcher started beside this one; they are told how the run ended."""
    from compressctl.core.errors import CompressctlError, ExitCode
    from compressctl.pipeline.crew import assemble

    crew, code = assemble(), int(ExitCode.STAGE_FAILED)
    try:
        yield crew
    except typer.Exit as done:
        code = done.exit_code
        raise
    except CompressctlError as error:
        code = int(error.exit_code)
        raise
    finally:
        crew.end(code)


def _resolve(asked: LogFormat) -> LogFormat:
    if asked is not LogFormat.AUTO:
        return asked
    return LogFormat.RICH if sys.stdout.isatty() else LogFormat.PLAIN


def _run(
    recipe: Recipe,
    plan: Plan,
    output: Path | None,
    cache: Cache | None,
    log_format: LogFormat,
    measure: Measure,
    crew: Crew | None = None,
    *,
    strict: bool = False,
) -> RunResult:
    from compressctl.core.run_folder import make_run_folder
    from compressctl.measure.environment import environment
    from compressctl.pipeline.lock import write_lock
    from compressctl.pipeline.run import check_backends, run
    from compressctl.pipeline.sinks import JsonLines, PlainLines

    check_backends(recipe)
    facts = environment()
    folder = make_run_folder(output, recipe.name, plan.digest)
    write_lock(folder / "recipe.lock.yaml", recipe, plan, facts)
    if log_format is LogFormat.RICH:
        from compressctl.cli.progress import LiveView

        view: Any = LiveView(plan)
    else:
        view = nullcontext(JsonLines(sys.stdout) if log_format is LogFormat.JSON else PlainLines(sys.stdout))
    with view as listener:
        listeners: list[Listener] = [listener]
        return run(
            recipe,
            plan,
            folder,
            cache=cache,
            listeners=listeners,
            environment=facts,
            measure=measure,
            crew=crew,
            strict=strict,
        )


def _report(result: RunResult, recipe_file: Path, log_format: LogFormat) -> int:
    from compressctl.report.from_run import from_result
    from compressctl.report.write import add_to_job_summary, write

    report = from_result(result, recipe_file)
    written = write(report, result.folder)
    add_to_job_summary(report)
    if log_format is not LogFormat.JSON:
        from rich.console import Console

        from compressctl.report.console import render

        console = Console()
        console.print(render(report))
        console.print(f"report: {written[-1]}", markup=False, soft_wrap=True)
    if result.error is not None:
        print(f"error: {result.error}", file=sys.stderr)
    return report.exit_code
