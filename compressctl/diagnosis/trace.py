"""A recipe's stages once more: each one's model before and after it, from the cache where that keeps it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.cache import Cache
from compressctl.core.custom_ops import using
from compressctl.core.errors import CompressctlError, GateError
from compressctl.core.events import Events, Listener
from compressctl.core.model import Model, OnnxModel
from compressctl.graph.lower import as_graph
from compressctl.measure.session_host import SessionHost
from compressctl.pipeline.executor import Executor
from compressctl.pipeline.plan import Plan, Step, make_plan
from compressctl.pipeline.run import check_installed
from compressctl.pipeline.workspace import Workspace
from compressctl.recipe.schema import Recipe, Stage
from compressctl.sources.load import libraries


@dataclass(frozen=True)
class Place:
    """Where stages are applied and compared. host: opens the files; whoever made it closes it."""

    cache: Cache | None
    listeners: Sequence[Listener]
    host: SessionHost


@dataclass(frozen=True)
class TracedStage:
    """after: None where the stage failed, with `error`. refused: why its gate, or the clock, does not keep `after`."""

    stage: Stage
    before: Model
    after: Model | None
    facts: Mapping[str, Any]
    refused: str = ""
    error: CompressctlError | None = None

    @cached_property
    def graph(self) -> OnnxModel | None:
        """`after`, lowered once, since that takes seconds."""
        return None if self.after is None else as_graph(self.after)


@dataclass(frozen=True)
class Trace:
    """stages: up to the one that failed, if one did."""

    recipe: Recipe
    plan: Plan
    workspace: Workspace
    stages: tuple[TracedStage, ...]

    @property
    def last(self) -> TracedStage:
        return self.stages[-1]


@contextmanager
def traced(recipe: Recipe, place: Place) -> Iterator[Trace]:
    """What the recipe's stages make. Raises what loading the model and the data does."""
    check_installed(recipe)
    plan = make_plan(recipe, place.cache)
    with (
        tempfile.TemporaryDirectory() as folder,
        using(libraries(recipe.model, recipe.base)),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        workspace = Workspace(recipe, plan, Path(folder), place.cache, Events(*place.listeners), place.host)
        executor = Executor(workspace)
        executor.preflight()
        yield Trace(recipe, plan, workspace, tuple(_stages(executor, workspace)))


def _stages(executor: Executor, workspace: Workspace) -> Iterator[TracedStage]:
    model = workspace.loaded()
    for step in workspace.plan.steps:
        if step.kind not in ("lower", "stage"):
            continue
        before, refused = model, ""
        try:
            with workspace.step(step) as told:
                made = workspace.read(step.key, step.id)
                told.update(cached=made is not None)
                if made is None:
                    try:
                        made = executor.perform(step, before)
                        executor.keep(step, made)
                    except GateError as error:
                        refused = error.message
                if step.stage is None:
                    assert made is not None
                    model = made
                    continue
                if made is not None:
                    model, refused = made, str(made.history[-1].facts.get("skipped", ""))
                if made is None or refused:
                    made = executor.perform(_unbounded(step, step.stage), before)
        except CompressctlError as error:
            if step.stage is None:
                raise
            yield TracedStage(step.stage, before, None, {}, error=error)
            return
        yield TracedStage(step.stage, before, made, made.history[-1].facts, refused)


def _unbounded(step: Step, stage: Stage) -> Step:
    """Without a gate, and whatever the clock says."""
    return replace(step, stage=replace(stage, gate=None, if_slower="keep"), key=None)
