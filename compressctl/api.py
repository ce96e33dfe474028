"""The Python API: recipes, plans, runs and comparisons as typed functions. The command line is a skin over it.

`import compressctl` imports none of this before a name of it is used, and no framework before a run needs it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compressctl.core.errors import CompressctlError, UsageError
from compressctl.core.events import Event
from compressctl.core.machine import check_system, ensure_temporary_folder
from compressctl.pipeline.measure_level import MeasureLevel, check_level
from compressctl.pipeline.plan import Plan
from compressctl.recipe.loader import load
from compressctl.recipe.schema import Recipe
from compressctl.report.document import Report

if TYPE_CHECKING:
    from compressctl.core.cache import Cache
    from compressctl.pipeline.process_group import ProcessGroup
    from compressctl.pipeline.result import RunResult
    from compressctl.report.side_by_side import SideBySide

__all__ = ["Event", "Plan", "Recipe", "Report", "Run", "apply", "compare", "load_recipe", "open_run", "plan"]

RecipeLike = Recipe | Mapping[str, Any] | str | os.PathLike[str]
"""A recipe that was loaded, its content as a mapping, or the path of its file. Paths inside a mapping start from the working
folder."""

Level = Literal["stages", "final", "headline", "quick", "untimed"]


@dataclass(frozen=True)
class Run:
    """A run that ended. folder: holds the lock file, the report's files and artifacts/. report: everything that was measured."""

    folder: Path
    report: Report

    @property
    def holds(self) -> bool:
        """Whether it ended inside its budget, with every deliverable measured: the command line's exit code 0."""
        return self.report.exit_code == 0

    @property
    def files(self) -> dict[str, Path]:
        """By backend, the file that was handed over."""
        return {part.backend: self.folder / part.compressed.path for part in self.report.backends}


def load_recipe(recipe: RecipeLike, *, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe. No framework is imported.

    overrides: values by their place, as in {"stages.int8.ranges": "mse", "target.threads": 2}; for a recipe that was loaded
    already there can be none. Raises RecipeError with everything that is wrong.
    """
    sets = [f"{path}={_yaml(value)}" for path, value in (overrides or {}).items()]
    if isinstance(recipe, Recipe):
        if sets:
            raise UsageError("overrides change a recipe when it is read: give its path or its content")
        return recipe
    if not isinstance(recipe, Mapping | str | os.PathLike):
        raise UsageError(f"a recipe is a path or a mapping, this is {type(recipe).__name__}")
    if isinstance(recipe, Mapping):
        return load(Path("recipe.yaml"), sets, (), _yaml(recipe, indent=1))
    return load(Path(recipe), sets)


def plan(recipe: RecipeLike, *, overrides: Mapping[str, Any] | None = None, cache: bool = True) -> Plan:
    """The steps that a recipe would take, and which of them the cache holds. Nothing is loaded but the recipe.

    Raises RecipeError when the recipe is wrong, UsageError when its files are not there.
    """
    from compressctl.pipeline.plan import make_plan
    from compressctl.store.cache_place import stage_cache

    return make_plan(load_recipe(recipe, overrides=overrides), stage_cache() if cache else None)


def apply(
    recipe: RecipeLike,
    *,
    overrides: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    cache: bool = True,
    measure: Level = "stages",
    strict: bool = False,
    progress: Callable[[Event], None] | None = None,
    time_limit: float | None = None,
) -> Run:
    """Run a recipe: compress, export, measure the exported files, and write the report.

    output: the run's folder; an earlier run of the same recipe in it is replaced (default: runs/<name>/<time>-<hash>).
    cache: take finished stages from the cache. measure: each stage's output too, the exported files alone, those at the target's batch and threads alone, so briefly, or without latency. strict: outputs
    that differ from the original's, or were not compared, count as a missed budget. progress: called with each event; what
    it raises stops the run and is raised here. time_limit: seconds after which the run ends with what is finished.

    A missed budget is no exception, nor is the end of the time: see Run.holds and Run.report.status. Raises CompressctlError when something stopped the run; what it brought
    until then is in the report of the run folder, which the exception names in a note.
    """
    from compressctl.pipeline.event_listeners import TimeLimit
    from compressctl.pipeline.plan import make_plan
    from compressctl.store.cache_place import stage_cache

    loaded = load_recipe(recipe, overrides=overrides)
    told = _Told(progress)
    kept = stage_cache() if cache else None
    result, report, written = carry_out(
        loaded,
        make_plan(loaded, kept),
        [told, *([TimeLimit(time_limit)] if time_limit is not None else [])],
        output=Path(output) if output is not None else None,
        cache=kept,
        measure=_level(measure),
        strict=strict,
        recipe_file=Path(recipe) if isinstance(recipe, (str, os.PathLike)) else None,
    )
    if told.error is not None:
        told.error.add_note(f"progress raised it, which stopped the run; report: {written[-1]}")
        raise told.error
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.error is not None:
        result.error.add_note(f"report: {written[-1]}")
        raise result.error
    return Run(result.folder, report)


class _Told:
    """A caller's callback, which is not called again once it has raised something."""

    def __init__(self, progress: Callable[[Event], None] | None) -> None:
        self._progress = progress
        self.error: Exception | None = None

    def __call__(self, event: Event) -> None:
        if self._progress is None or self.error is not None:
            return
        try:
            self._progress(event)
        except Exception as error:
            self.error = error
            raise


def _level(measure: str) -> MeasureLevel:
    try:
        return MeasureLevel(measure)
    except ValueError:
        raise UsageError(f"measure: {measure!r} is none of {', '.join(MeasureLevel)}") from None


def open_run(folder: str | os.PathLike[str]) -> Run:
    """A run that ended earlier. Raises UsageError when the folder holds no report that can be read."""
    from compressctl.report.read import read_report

    return Run(Path(folder), read_report(Path(folder)))


def compare(runs: Sequence[Run | str | os.PathLike[str]], *, backend: str | None = None) -> SideBySide:
    """Two or more runs side by side. backend: whose figures (default: each run's first). Raises UsageError."""
    from compressctl.report.side_by_side import side_by_side

    if isinstance(runs, str | os.PathLike | Run):
        raise UsageError("compare takes a list of two runs or more, this is one")
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    return side_by_side([(run.folder, run.report) for run in opened], backend)


def carry_out(
    recipe: Recipe,
    plan: Plan,
    listeners: Sequence[Callable[[Event], None]],
    *,
    output: Path | None = None,
    cache: Cache | None = None,
    measure: MeasureLevel = MeasureLevel.STAGES,
    process_group: ProcessGroup | None = None,
    strict: bool = False,
    recipe_file: Path | None = None,
) -> tuple[RunResult, Report, list[Path]]:
    """A plan in a folder of its own, with its report written. Whatever stops it is in the result, also when it is a bug."""
    check_system()
    from compressctl.core.failures import translated
    from compressctl.core.run_folder import make_run_folder
    from compressctl.measure.environment import environment
    from compressctl.pipeline.lock import write_lock
    from compressctl.pipeline.run import check_installed, run
    from compressctl.pipeline.signals import signals_restored
    from compressctl.recipe.loader import resolve
    from compressctl.report.from_run import from_result
    from compressctl.report.write import write, written_in

    check_level(measure, recipe)
    check_installed(recipe)
    facts = environment()
    folder = make_run_folder(output, recipe.name, plan.digest, _files(resolve(recipe), recipe.base), recipe_file)
    write_lock(folder / "recipe.lock.yaml", recipe, plan, facts)
    ensure_temporary_folder(folder / "temporary")
    with signals_restored():
        result = run(
            recipe,
            plan,
            folder,
            cache=cache,
            listeners=listeners,
            environment=facts,
            measure=measure,
            process_group=process_group,
            strict=strict,
        )
        report = from_result(result, recipe_file)
        try:
            return result, report, write(report, result.folder)
        except Exception as error:
            raise _unreported(result, translated(error, result.folder), written_in(result.folder)) from error


def _unreported(result: RunResult, error: CompressctlError, written: Sequence[str]) -> CompressctlError:
    """What a run without its whole report ends with: what stopped it, if something did, and why the report is not there."""
    of_it = f"{', '.join(written) or 'nothing'} of it was written to {result.folder}"
    if result.error is None:
        error.message = f"the report could not be written whole: {error.message}; {of_it}"
        return error
    result.error.message += f"\nthe report could not be written whole either: {error.message}; {of_it}"
    return result.error


def _files(value: Any, base: Path) -> Iterator[Path]:
    """Whatever in a recipe's content is the path of something that exists."""
    if isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _files(inner, base)
    elif isinstance(value, str) and value:
        path = base / value.partition(".py:")[0]
        try:
            if path.exists() and path.resolve() != base.resolve():
                yield path
        except (OSError, ValueError):
            return


def _yaml(value: Any, indent: int | None = None) -> str:
    """JSON, which YAML reads. Raises UsageError for what a recipe cannot hold."""
    try:
        return json.dumps(value, default=_path, ensure_ascii=False, indent=indent)
    except TypeError as error:
        raise UsageError(f"a recipe holds text, numbers, lists and mappings: {error}") from None


def _path(value: object) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    raise TypeError(f"{type(value).__name__} is none of them")
