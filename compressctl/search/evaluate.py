"""One candidate, carried out as `compressctl apply` carries out its recipe, and measured on samples that nothing was fitted to."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressctl.core.cache import Cache
from compressctl.core.errors import CompressctlError, ExitCode
from compressctl.core.events import Event, Listener
from compressctl.core.machine import ensure_temporary_folder
from compressctl.core.run_folder import make_run_folder
from compressctl.core.secrets import for_others
from compressctl.measure.results import BackendResult
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.pipeline.plan import make_plan
from compressctl.pipeline.run import run
from compressctl.pipeline.signals import signals_restored
from compressctl.recipe.schema import Recipe
from compressctl.search.document import Figures, Point
from compressctl.search.facts import Facts
from compressctl.search.journal import key_of
from compressctl.search.losses import loss_of
from compressctl.search.space import Candidate
from compressctl.search.subject import Subject

_MEASURED_AS = 2
"""Raise when a point's figures come to mean something else."""

_PASSES = (ExitCode.MACHINE, ExitCode.INTERRUPTED, ExitCode.BUG)
"""Failures that say nothing about the candidate: the next start tries it again."""


@dataclass(frozen=True)
class Bench:
    """What candidates are carried out on. folder: the search's. environment: as a report has it. is_timed: whether this machine's clock counts."""

    subject: Subject
    facts: Facts
    folder: Path
    cache: Cache | None
    environment: Mapping[str, Any]
    is_timed: bool = True

    def recipe(self, candidate: Candidate, budget: Mapping[str, Any] | None = None) -> Recipe:
        """Raises RecipeError where it cannot be one of this model's."""
        subject = self.subject_of(candidate)
        sections: dict[str, Any] = {"export": [subject.export(compressed=candidate.compressed)]}
        if budget is not None:
            sections["budget"] = dict(budget)
        return subject.recipe(candidate.stages, **sections)

    def subject_of(self, candidate: Candidate) -> Subject:
        """As the graph that it is, or the network that is made of it."""
        return self.of_networks().subject if candidate.takes_network else self.subject

    def of_networks(self) -> Bench:
        """For what prunes and trains."""
        if not self.facts.becomes_network:
            return self
        return replace(self, subject=self.subject.as_network(lacks_norms=self.facts.lacks_norms))

    def key(self, recipe: Recipe) -> str:
        """Of everything that decides the point."""
        packages = [self.environment.get(name) for name in ("cpu", "compressctl", "onnxruntime", "openvino", "torch")]
        sections = {
            name: recipe.resolved.get(name) for name in ("export", "target", "task", "metric", "decode", "heads")
        }
        untimed = () if self.is_timed else ("untimed",)
        return key_of(_MEASURED_AS, make_plan(recipe, None).digest, sections, packages, *untimed)


@dataclass(frozen=True)
class Tried:
    """point: None where it was stopped before it was measured. status: the run's."""

    point: Point | None
    status: str
    is_lasting: bool = True


def evaluate(candidate: Candidate, recipe: Recipe, key: str, bench: Bench, listeners: Sequence[Listener]) -> Tried:
    """Carry it out and measure it. What it fails with is a point's reason, never raised."""
    began = time.monotonic()
    place, spent = bench.folder / "work" / candidate.name, _Spent(candidate)
    try:
        plan = make_plan(recipe, bench.cache)
        folder = make_run_folder(place, recipe.name, plan.digest)
        ensure_temporary_folder(folder / "temporary")
        with signals_restored():
            result = run(
                recipe,
                plan,
                folder,
                cache=bench.cache,
                listeners=[spent, *listeners],
                environment=bench.environment,
                measure=_level(candidate, bench),
                judged_on="validation",
            )
        status, error = result.status, result.error
        measured = result.backends[0] if result.backends else None
    except CompressctlError as raised:
        status, error, measured = "failed", raised, None
    finally:
        log = _kept_log(place / "error.log", bench.folder / "errors" / f"{candidate.name}.log")
        shutil.rmtree(place, ignore_errors=True)
    if status in ("interrupted", "time limit"):
        return Tried(None, status)
    figures = figures_of(measured, bench.facts) if measured is not None and error is None else None
    point = Point(
        name=candidate.name,
        family=candidate.family,
        words=candidate.words,
        key=key,
        state="measured" if figures is not None else "failed",
        figures=figures,
        reason="" if error is None else for_others(str(error).replace(str(place / "error.log"), str(log))),
        exit_code=int(error.exit_code) if error is not None else 0,
        seconds=time.monotonic() - began,
        measure_seconds=spent.measuring,
        train_seconds=spent.training if candidate.training else None,
        weight=candidate.weight,
        kind=candidate.kind,
        risk=candidate.risk,
        recipe=recipe.resolved,
    )
    return Tried(point, status, error is None or error.exit_code not in _PASSES)


def _level(candidate: Candidate, bench: Bench) -> MeasureLevel:
    """A network that was cut is timed in full: by that is decided what is trained, which takes far longer."""
    if not bench.is_timed:
        return MeasureLevel.UNTIMED
    return MeasureLevel.HEADLINE if candidate.kind == "shaped" else MeasureLevel.QUICK


def _kept_log(written: Path, kept: Path) -> Path:
    """A traceback that a message names outlives the folder that it was written to."""
    if written.is_file():
        kept.parent.mkdir(exist_ok=True)
        written.replace(kept)
    return kept


class _Spent:
    """Adds up what exporting and measuring take, and what training does."""

    def __init__(self, candidate: Candidate) -> None:
        self._trained = candidate.training
        self.measuring = self.training = 0.0

    def __call__(self, event: Event) -> None:
        if event.kind != "step.finished":
            return
        seconds, step = float(event.fields["seconds"]), event.step or ""
        if step.startswith(("export-", "measure-")):
            self.measuring += seconds
        elif step in self._trained and not event.fields.get("cached"):
            self.training += seconds


def figures_of(found: BackendResult, facts: Facts) -> Figures:
    """Of one deliverable."""
    after, before = found.compressed, found.baseline
    loss, unknown = loss_of(after, facts)
    return Figures(
        total_bytes=after.total_bytes,
        smaller=found.smaller,
        transport_bytes=after.transport_bytes,
        speed=after.speed,
        latency_ms=after.latency.typical_ms if after.latency else None,
        is_noisy=found.noise is not None and found.noise.noisy,
        loss=loss,
        loss_unknown=unknown,
        has_decisions=any(output.agreement is not None for output in after.fidelity.outputs)
        if after.fidelity
        else False,
        original_score=before.score.value if before.score else None,
        score=after.score.value if after.score else None,
    )
