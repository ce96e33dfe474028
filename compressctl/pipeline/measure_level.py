"""How much of a run is measured."""

from __future__ import annotations

from enum import StrEnum

from compressctl.core.errors import UsageError
from compressctl.recipe.schema import Recipe


class MeasureLevel(StrEnum):
    """stages: each stage's output too. final: the exported files alone. headline: those, at the target's batch and threads alone. quick:
    the same briefly, with wide intervals. untimed: the exported files, without latency, memory and energy."""

    UNTIMED = "untimed"
    QUICK = "quick"
    HEADLINE = "headline"
    FINAL = "final"
    STAGES = "stages"


def check_level(level: MeasureLevel, recipe: Recipe) -> None:
    """Raises UsageError where the budget limits what is not measured."""
    if level is not MeasureLevel.UNTIMED:
        return
    bundle = recipe.budget.bundle
    timed = ("memory", "first_token_ms", "tokens_per_second", "speedup")
    limits = [
        f"budget.{name}" for name in ("speedup", "p99_ms", "slowest_ms") if getattr(recipe.budget, name) is not None
    ]
    limits += [f"budget.bundle.{name}" for name in timed if getattr(bundle, name, None)]
    if limits:
        raise UsageError(
            f"{', '.join(limits)} limit{'s' if len(limits) == 1 else ''} what --measure untimed leaves out",
            hint=f"measure quick or more, or leave out: {' '.join(f'--unset {name}' for name in limits)}",
        )
