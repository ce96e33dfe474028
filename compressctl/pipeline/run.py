"""Run a plan: load, apply each stage, export, measure. Whatever happens there is a result to report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from traceback import clear_frames
from typing import Any

import numpy as np

from compressctl.core.backend import BackendSpec, backends
from compressctl.core.cache import Cache
from compressctl.core.custom_ops import using
from compressctl.core.data import SplitName
from compressctl.core.errors import (
    CompressctlError,
    MachineError,
    MissingDependencyError,
    MissingDeviceError,
    TimeIsUpError,
)
from compressctl.core.events import Events, Listener
from compressctl.core.failures import chain, is_interrupt, translated
from compressctl.core.machine import installed_version
from compressctl.core.needs import Need, declared_needs, declared_runtimes
from compressctl.core.source import metrics
from compressctl.measure.energy import check_meter
from compressctl.measure.results import Parity
from compressctl.pipeline.event_listeners import EventFile, Warnings, ends_silence, is_time_over
from compressctl.pipeline.executor import Executor
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.pipeline.plan import Plan
from compressctl.pipeline.process_group import ProcessGroup
from compressctl.pipeline.result import RunResult, Status
from compressctl.pipeline.signals import ending_signals_interrupt
from compressctl.pipeline.workspace import Workspace, open_backend
from compressctl.recipe.order import export_options
from compressctl.recipe.schema import Recipe
from compressctl.sources.load import libraries

CACHE_LIMIT_BYTES = 10 * 1024**3


def check_extras(spec: BackendSpec, options: Mapping[str, Any]) -> None:
    """Raise MissingDependencyError when an option needs a package that is not installed."""
    for extra in spec.extras:
        if extra.is_asked(options) and find_spec(extra.package) is None:
            raise MissingDependencyError(f"the option {extra.option} of {spec.name}", extra.package, extra.install)


def check_installed(recipe: Recipe) -> None:
    """Raise MissingDependencyError when a backend or a metric of the recipe needs what is not installed, before any work, MachineError or
    MissingDeviceError where a stage's limit cannot be measured here, and UsageError for a model whose folder lacks what a bundle needs."""
    _check_metrics(recipe)
    stages = [stage for stage in recipe.stages if stage.enabled]
    for stage in stages:
        if Need.ENERGY in declared_needs(stage.params):
            check_meter(recipe.target.device)
    measured = {name or recipe.target.backend for stage in stages for name in declared_runtimes(stage.params)}
    for name in dict.fromkeys([recipe.target.backend, *(entry.backend for entry in recipe.export), *sorted(measured)]):
        spec: BackendSpec = backends.get(name)
        found = open_backend(name).probe()
        if not found.installed:
            raise MissingDependencyError(f"the {name} backend", spec.package, spec.install)
        if name in measured and found.stands_in and not found.devices:
            raise MissingDeviceError(
                f"what a call takes in {name} cannot be measured here: {'; '.join(found.missing)}",
                hint="limit macs, parameters or memory instead",
            )
        device = recipe.target.device
        if name == recipe.target.backend and device not in (*found.devices, "cpu") and not found.stands_in:
            reasons = "; ".join(found.missing) or f"{device.upper()}: it has no such device"
            raise MissingDeviceError(f"{name} cannot run on {device} here: {reasons}", hint="set target.device: cpu")
        check_extras(spec, export_options(recipe, name))
    if any(getattr(entry.params, "bundle", None) is not None for entry in recipe.export):
        from compressctl.pipeline.bundles import check_servable

        check_servable(recipe)


def _check_metrics(recipe: Recipe) -> None:
    for where in recipe.judges.values() if recipe.data is not None else ():
        name = where.metric_name
        needs = metrics.get(name).needs if name is not None and name in metrics else None
        if needs is not None and installed_version(needs[0]) is None:
            raise MissingDependencyError(f"the metric {name}", *needs)


def run(
    recipe: Recipe,
    plan: Plan,
    folder: Path,
    *,
    cache: Cache | None,
    listeners: Sequence[Listener],
    environment: Mapping[str, Any],
    measure: MeasureLevel = MeasureLevel.STAGES,
    process_group: ProcessGroup | None = None,
    strict: bool = False,
    judged_on: SplitName = "test",
) -> RunResult:
    """Carry out the plan in a run folder that exists. What stops it is RunResult.error, also when it is a bug of ours.

    judged_on: the split whose samples files are scored and compared on; who chooses among runs leaves the test split alone.
    Raises OSError when the run folder cannot be written to at the start.
    """
    started, clock = time.time(), time.monotonic()
    warnings, event_file = Warnings(), EventFile(folder / "events.jsonl")
    events = Events(event_file, warnings, *listeners)
    workspace = Workspace(recipe, plan, folder, cache, events)
    executor = Executor(workspace, measure, process_group, strict, judged_on)
    error: CompressctlError | None = None
    status: Status = "done"
    try:
        events.emit("run.started", name=recipe.name, folder=str(folder), steps=[step.id for step in plan.steps])
        # Overflow shows where it matters: weights, outputs and scores are checked for what is no number.
        with (
            ending_signals_interrupt(),
            ends_silence(listeners),
            using(libraries(recipe.model, recipe.base)),
            np.errstate(over="ignore", invalid="ignore"),
        ):
            executor.carry_out()
        if any(not check.holds for check in executor.budget):
            status = "budget missed"
    except KeyboardInterrupt as raised:
        status = _stopped(raised, listeners)
    except BaseException as raised:
        # Author code raises anything: SystemExit, asyncio.CancelledError.
        status, error = (
            (_stopped(raised, listeners), None) if is_interrupt(raised) else ("failed", _translated(raised, folder))
        )
    workspace.close()
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    try:
        events.emit("run.finished", status=status, error=str(error) if error else None)
    except Exception as raised:
        status, error = "failed", error or _translated(raised, folder)
    event_file.close()
    if cache is not None:
        cache.trim(CACHE_LIMIT_BYTES)
    return RunResult(
        recipe=recipe,
        folder=folder,
        status=status,
        started=started,
        seconds=time.monotonic() - clock,
        environment=environment,
        stages=tuple(executor.records),
        not_done=tuple(executor.not_done()) if status != "done" else (),
        backends=tuple(executor.results),
        parity=tuple(Parity.model_validate(record.facts) for record in executor.records if record.use == "lower"),
        budget=tuple(executor.budget),
        warnings=tuple(warnings.messages),
        error=error,
    )


def _stopped(raised: BaseException, listeners: Sequence[Listener]) -> Status:
    """By its limit, or by Ctrl-C."""
    return "time limit" if isinstance(raised, TimeIsUpError) or is_time_over(listeners) else "interrupted"


def _translated(error: BaseException, folder: Path) -> CompressctlError:
    """Whatever fails in a folder that is gone fails because of that."""
    if isinstance(error, OSError) and not folder.is_dir():
        return MachineError(f"{folder} was removed while the run worked in it", hint="run it again")
    ours = translated(error, folder)
    _release(error)
    return ours


def _release(error: BaseException) -> None:
    """What the functions that failed still hold: memory and open files that the report may need."""
    for part in chain(error):
        clear_frames(part.__traceback__)
