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
from compressctl.core.custom_ops import using
from compressctl.core.errors import CompressctlError, ExitCode
from compressctl.core.events import Events
from compressctl.core.technique import RunContext, TechniqueSpec, techniques
from compressctl.core.undeclared import Undeclared
from compressctl.pipeline.executor import Executor
from compressctl.pipeline.plan import Plan
from compressctl.pipeline.process_group import ProcessGroup
from compressctl.pipeline.serialization import read_model
from compressctl.pipeline.signals import ending_signals_interrupt, ignore_ending_signals
from compressctl.pipeline.unmatched import carried_out
from compressctl.pipeline.workspace import Workspace
from compressctl.recipe.schema import Recipe
from compressctl.sources.load import libraries

_AFTER_A_FAILURE = timedelta(minutes=5)
"""The leader met the same failure a moment ago or in a moment, and writes its report."""


def follow(prepare: Callable[[], tuple[Recipe, Plan]], cache: Cache | None, process_group: ProcessGroup) -> int:
    """Take part until the leader says how the run ended. Returns its exit code. Writes nothing that outlives it.

    prepare: reads the recipe; where that fails, the leader meets the same error, and it must live to report it.
    """
    try:
        with ending_signals_interrupt(), tempfile.TemporaryDirectory() as folder:
            return _follow_orders(prepare, Path(folder), cache, process_group)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    finally:
        ignore_ending_signals()
        process_group.leave()


def _follow_orders(
    prepare: Callable[[], tuple[Recipe, Plan]], folder: Path, cache: Cache | None, process_group: ProcessGroup
) -> int:
    try:
        recipe, plan = prepare()
    except CompressctlError as error:
        return _end_after(error, process_group)
    executor = Executor(Workspace(recipe, plan, folder, cache, Events()), process_group=process_group)
    order = process_group.next_order()
    while "exit" not in order:
        try:
            with using(libraries(recipe.model, recipe.base)):
                _take_part(executor, order, process_group)
        except Exception as error:
            return _end_after(error, process_group)
        order = process_group.next_order()
    return int(order["exit"])


def _take_part(executor: Executor, order: dict[str, Any], process_group: ProcessGroup) -> None:
    stage = next(
        step.stage for step in executor.workspace.plan.steps if step.stage is not None and step.id == order["stage"]
    )
    spec: TechniqueSpec = techniques.get(stage.use)
    key = next(step.key for step in executor.workspace.plan.steps if step.id == order["stage"])
    model = read_model(Path(order["folder"]), executor.workspace.fresh_copy, executor.workspace.recipe)
    run = _listening(executor.context(stage, spec, key), process_group)
    carried_out(spec, model, stage.params, run, executor.workspace.recipe.unmatched)


def _end_after(failure: Exception, process_group: ProcessGroup) -> int:
    """The run's exit code when the leader failed too, and reports it; otherwise this process alone is broken, which must be seen."""
    with suppress(Exception):
        order = process_group.next_order(_AFTER_A_FAILURE)
        if "exit" in order:
            return int(order["exit"])
    raise failure


def _listening(context: RunContext, process_group: ProcessGroup) -> RunContext:
    """What the leader measures is heard instead of measured: a decision on it must be the same everywhere."""

    def heard(measure: Any, hear: Callable[..., Any]) -> Any:
        return measure if measure is None or isinstance(measure, Undeclared) else hear

    return replace(
        context,
        score=heard(context.score, lambda model, split: float(process_group.hear())),
        baseline_score=heard(context.baseline_score, lambda: float(process_group.hear())),
        latency_ms=heard(context.latency_ms, lambda models: tuple(process_group.hear())),
        latency_in=heard(context.latency_in, lambda name: lambda models: tuple(process_group.hear())),
        joules=heard(context.joules, lambda models: tuple(process_group.hear())),
    )
