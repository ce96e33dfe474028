"""compressctl plan: the steps of a recipe, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from compressctl.cli.options import RecipePath, Sets, Unsets

if TYPE_CHECKING:
    from compressctl.pipeline.plan import Plan


def plan(
    recipe: RecipePath,
    sets: Sets = None,
    unsets: Unsets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the steps as JSON.")] = False,
) -> None:
    """Show the steps that a recipe would take: forms, what the cache holds already, and every impossible order.

    No weight is loaded and no framework imported.
    """
    from compressctl.pipeline.cache_place import stage_cache
    from compressctl.pipeline.plan import make_plan
    from compressctl.recipe.loader import load

    made = make_plan(load(recipe, sets or (), unsets or ()), stage_cache())
    if not as_json:
        show(made)
        return
    import json

    keys = ("id", "kind", "use", "takes", "gives", "key", "cached")
    print(json.dumps([{key: getattr(step, key) for key in keys} for step in made.steps], indent=1))


def show(made: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

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
    Console().print(table)
