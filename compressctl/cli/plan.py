"""compressctl plan: the steps of a recipe, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressctl.cli.options import RecipePath, Sets, SharedCacheAddress, Unsets
from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    from compressctl.pipeline.plan import Plan
    from compressctl.recipe.schema import Recipe


def plan(
    recipe: RecipePath,
    sets: Sets = None,
    unsets: Unsets = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Also load the model and fly one real batch through it, as `apply` does before any stage."
        ),
    ] = False,
    shared_cache: SharedCacheAddress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the steps as JSON.")] = False,
) -> None:
    """Show the steps that a recipe would take: forms, what the cache holds already, and every impossible order.

    Then what the run executes of the recipe author's: functions and libraries, each with its key. Without --check nothing of that is
    run, no weight loaded and no framework imported.

    \b
    Examples:
      compressctl plan model.yaml --check
      compressctl plan builtin:quickstart --set seed=1 --json
    """
    from compressctl.pipeline.plan import make_plan
    from compressctl.recipe.loader import load
    from compressctl.store.cache_place import stage_cache, use_shared_cache

    use_shared_cache(shared_cache, None)
    loaded = load(recipe, sets or (), unsets or ())
    made = make_plan(loaded, stage_cache())
    if not as_json:
        show(made)
        if check:
            _check(loaded, made)
        return
    if check:
        raise UsageError("--check prints words, not JSON", hint="leave --json out")
    import json

    keys = ("id", "kind", "use", "takes", "gives", "key", "cached")
    steps = [{key: getattr(step, key) for key in keys} for step in made.steps]
    print(json.dumps({"steps": steps, "code": [{"path": path, "names": names} for path, names in made.code]}, indent=1))


def _check(recipe: Recipe, made: Plan) -> None:
    import sys
    import tempfile

    from compressctl.core.custom_ops import using
    from compressctl.core.events import Events
    from compressctl.pipeline.event_listeners import PlainLines
    from compressctl.pipeline.executor import Executor
    from compressctl.pipeline.run import check_installed
    from compressctl.pipeline.workspace import Workspace
    from compressctl.sources.load import libraries
    from compressctl.store.cache_place import stage_cache

    check_installed(recipe)
    with tempfile.TemporaryDirectory() as folder, using(libraries(recipe.model, recipe.base)):
        workspace = Workspace(recipe, made, Path(folder), stage_cache(), Events(PlainLines(sys.stdout)))
        executor = Executor(workspace)
        try:
            executor.preflight()
            batch = "one batch of random values" if executor.is_random else "one real batch"
        finally:
            workspace.close()
    print(f"checked: {batch} went through the model, its runtime and the metric")


def show(made: Plan) -> None:
    from rich.table import Table

    from compressctl.cli.screen import Screen

    table = Table(title=f"target: {made.target.backend}, {made.target.profile}", title_justify="left")
    for head in ("step", "does", "takes", "gives", "cache"):
        table.add_column(head)
    for step in made.steps:
        does = (
            step.use
            if step.kind in ("stage", "lower")
            else f"{step.kind} {step.use}"
            if step.kind != step.use
            else step.kind
        )
        cached = "" if step.key is None else "hit" if step.cached else "miss"
        table.add_row(step.id, does, str(step.takes or ""), str(step.gives or ""), cached)
    Screen().print(table)
    for path, names in made.code:
        print(f"runs code: {path}: {names}")
