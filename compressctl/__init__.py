"""Make trained models smaller, faster and cheaper to run, and prove it on the exported file.

    import compressctl

    run = compressctl.apply("recipe.yaml", overrides={"target.threads": 2})
    print(run.report.summary, run.files)

The names of the API are imported when they are first used: `import compressctl` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compressctl.core.telemetry import switch_off

switch_off()

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compressctl.api import Event, Plan, Recipe, Report, Run, apply, compare, load_recipe, open_run, plan
    from compressctl.core.errors import CompressctlError, RecipeError

__all__ = [
    "CompressctlError",
    "Event",
    "Plan",
    "Recipe",
    "RecipeError",
    "Report",
    "Run",
    "apply",
    "compare",
    "load_recipe",
    "open_run",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = "compressctl.core.errors" if name.endswith("Error") else "compressctl.api"
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
