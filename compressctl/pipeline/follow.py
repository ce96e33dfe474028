"""What the processes beside the first do in a run: the same stages on the same models, and nothing that anyone sees."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
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
from compressctl.pipeline.signals import ignore_sigterm, sigterm_interrupts
from compressctl.pipeline.store import read_model
from compressctl.pipeline.work import Work
from compressctl.recipe.schema import Recipe

_AFTER_A_FAILURE = timedelta(minutes=5)
"""The leader met the same failure a moment ago or in a moment, and writes its report."""


def follow(prepare: Callable[[], tuple[Recipe, Plan]], cache: Cache | None, crew: Crew) -> int:
    """Take part until the leader says how the run ended. Returns its exit code. Writes nothing that outlives it.

    prepare: reads the recipe; where that fails, the leader meets the same error, and it must live to report it.
    """
    try:
        with sigterm_interrupts(), tempfile.TemporaryDirectory() as folder:
            return _follow_orders(prepare, Path(folder), cache, crew)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    finally:
        ignore_sigterm()
        crew.leave()


def _follow_orders(prepare: Callable[[], tuple[Recipe, Plan]], folder: Path, cache: Cache | None, crew: Crew) -> int:
    try:
        recipe, plan = prepare()
    except CompressctlError as error:
        return _end_after(error, crew)
    work = Work(recipe, plan, folder, cache, Events(), crew=crew)
    order = crew.next_order()
    while "exit" not in order:
        try:
            _take_part(work, order, crew)
        except Exception as error:
            return _end_after(error, crew)
        order = crew.next_order()
    return int(order["exit"])


def _take_part(work: Work, order: dict[str, Any], crew: Crew) -> None:
    stage = next(step.stage for step in work.plan.steps if step.stage is not None and step.id == order["stage"])
    spec: TechniqueSpec = techniques.get(stage.use)
    key = next(step.key for step in work.plan.steps if step.id == order["stage"])
    model = read_model(Path(order["folder"]), work.fresh_copy)
    load(spec.implementation)(model, stage.params, _listening(work.context(stage, spec, key), crew))


def _end_after(failure: Exception, crew: Crew) -> int:
    """The run's exit code when the leader failed too, and reports it; otherwise this process alone is broken, which must be seen."""
    with suppress(Exception):
        order = crew.next_order(_AFTER_A_FAILURE)
        if "exit" in order:
            return int(order["exit"])
    raise failure


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
