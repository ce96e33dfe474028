"""compressctl migrate: recipes in the names that keys and values have now."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer

from compressctl.core.errors import ExitCode
from compressctl.core.whole_files import write_whole
from compressctl.recipe.migrate import migrated


def migrate(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes, YAML files.", metavar="RECIPE...")],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 when a recipe would change.")
    ] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; print what would change.")] = False,
) -> None:
    """Write recipes in the names that keys and values have now; comments and layout stay.

    What a recipe extends is written only when it is named too. Values that come from `vars` are yours to change:
    `compressctl validate` warns of those.

    \b
    Examples:
      compressctl migrate model.yaml
      compressctl migrate recipes/*.yaml --diff
    """
    texts = {path: migrated(path) for path in recipes}
    changed = {path: (before, after) for path, (before, after) in texts.items() if before != after}
    for path, (before, after) in changed.items():
        if diff:
            old, new = (text.splitlines(keepends=True) for text in (before, after))
            print("".join(difflib.unified_diff(old, new, str(path), str(path))), end="")
        elif check:
            print(f"would change {path}")
        else:
            resolved = path.resolve()
            write_whole(resolved, [after.encode()], resolved.stat().st_mode & 0o777)
            print(f"changed {path}")
    if check and changed:
        raise typer.Exit(int(ExitCode.BUDGET_MISSED))
