"""What the processes beside the first do in a run: the same stages on the same models, and nothing that anyone sees."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from compressctl.core.cache import Cache
from compressctl.core.errors import CompressctlError, ExitCode
from compressctl.core.events import Events
from compressctl.core.registry import load
from compressctl.core.technique import RunContext, TechniqueSpec, techniques
from compressctl.core.undeclared import Undeclared
from compressctl.pipeline.crew import Crew
from compressctl.pipeline.plan import Plan
from compressctl.pipeline.store import read_model
from compressctl.pipeline.work import Work
from compressctl.recipe.schema import Recipe

_AFTER_A_FAILURE = timedelta(seconds=60)


def follow(recipe: Recipe, plan: Plan, cache: Cache | None, crew: Crew) -> int:
    """Take part until the leader says how the run ended. Returns its exit code. Writes nothing that outlives it."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(recipe, plan, Path(folder), cache, Events(), crew=crew)
        try:
            order = crew.next_order()
            while "exit" not in order:
                failure = _take_part(work, order, crew)
                order = crew.next_order() if failure is None else _end_after(failure, crew)
        except KeyboardInterrupt:
            return int(ExitCode.INTERRUPTED)
    crew.leave()
    return int(order["exit"])


def _take_part(work: Work, order: dict[str, Any], crew: Crew) -> Exception | None:
    """What a stage raised here: the leader met the same, and is the one to report it."""
    stage = next(step.stage for step in work.plan.steps if step.stage is not None and step.id == order["stage"])
    spec: TechniqueSpec = techniques.get(stage.use)
    key = next(step.key for step in work.plan.steps if step.id == order["stage"])
    try:
        model = read_model(Path(order["folder"]), work.fresh_copy)
        load(spec.implementation)(model, stage.params, _listening(work.context(stage, spec, key), crew))
    except CompressctlError:
        return None
    except Exception as error:
        return error
    return None


def _end_after(failure: Exception, crew: Crew) -> dict[str, Any]:
    """The leader's farewell, when it failed too or noticed; otherwise this process alone is broken, which must be seen."""
    try:
        return crew.next_order(_AFTER_A_FAILURE)
    except Exception:
        raise failure from None


def _listening(context: RunContext, crew: Crew) -> RunContext:
    """What the leader measures is heard instead of measured: a decision on it must be the same everywhere."""

    def heard(measure: Any, hear: Callable[..., Any]) -> Any:
        return measure if measure is None or isinstance(measure, Undeclared) else hear

    return replace(
        context,
        score=heard(context.score, lambda model, split: float(crew.hear())),
        baseline_score=heard(context.baseline_score, lambda: float(crew.hear())),
        latency_ms=heard(context.latency_ms, lambda models: tuple(crew.hear())),
    )
