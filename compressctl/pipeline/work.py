"""The work of one run, step by step: what it has gathered so far is what a partial report shows."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.backend import Backend, backends
from compressctl.core.cache import Cache
from compressctl.core.data import Dataset, bind
from compressctl.core.errors import CompressctlError, GateError, StageError
from compressctl.core.events import Events
from compressctl.core.model import Form, Model, StageRecord
from compressctl.core.registry import load
from compressctl.core.source import MetricSpec, metrics
from compressctl.core.technique import Gate, RunContext, TechniqueSpec, techniques
from compressctl.measure.latency import concrete
from compressctl.measure.results import Parity
from compressctl.pipeline.plan import Plan, Step, stage_seed
from compressctl.pipeline.result import BackendResult
from compressctl.pipeline.score import Judge
from compressctl.recipe.schema import GateSection, Recipe, Stage

_PARITY_SAMPLES = 16
_PARITY_WARNING = 1e-3
"""Float32 convolutions summed in another order differ by some 1e-5; a thousandth means that something else differs."""


@dataclass
class Work:
    """One run in progress. records, results, budget: what it has found so far."""

    recipe: Recipe
    plan: Plan
    folder: Path
    cache: Cache | None
    events: Events
    records: list[StageRecord] = field(default_factory=list)
    results: list[BackendResult] = field(default_factory=list)
    budget: list[Any] = field(default_factory=list)
    _source: Model | None = None
    _lowered: Model | None = None
    _data: Dataset | None = None
    _judged_by: Judge | None = None

    def carry_out(self) -> None:
        model: Model | None = None
        steps = [step for step in self.plan.steps if step.kind in ("lower", "stage")]
        resume_at = self._furthest_cached(steps)
        for position, step in enumerate(steps):
            with self._step(step) as done:
                if position < resume_at:
                    done.update(cached=True)
                    continue
                cached = self._from_cache(step) if position == resume_at else None
                if cached is not None:
                    model = cached
                    done.update(cached=True)
                    self.records = [replace(record, cached=True) for record in model.history]
                    continue
                if model is None:
                    model = self._loaded() if position == 0 else self._previous(steps, position)
                model = self._perform(step, model)
                self._keep(step, model)
        self._export_and_measure(model or self._lowered_source())

    def _furthest_cached(self, steps: Sequence[Step]) -> int:
        """The last step whose output is cached: everything before it need not even be read."""
        cached = [position for position, step in enumerate(steps) if self.cache and step.key and step.key in self.cache]
        return max(cached, default=-1)

    def _previous(self, steps: Sequence[Step], position: int) -> Model:
        """The furthest cached output turned out damaged: start over from the model."""
        model = self._loaded()
        for step in steps[:position]:
            model = self._perform(step, model)
        return model

    def _perform(self, step: Step, model: Model) -> Model:
        if step.kind == "lower":
            lowered = self._lowered_source() if step.key == self.plan.baseline_key else self._lower(model)
            self.records = list(lowered.history)
            return lowered
        assert step.stage is not None
        return self._apply(step.stage, model)

    def _lower(self, model: Model) -> Model:
        """The model as an ONNX graph, with a record of how far its outputs moved."""
        from compressctl.graph.lower import lower, parity

        started = time.perf_counter()
        lowered = lower(model)
        inputs, samples = self._some_inputs(lowered)
        moved = parity(model, lowered, inputs)
        if max(moved.values(), default=0.0) > _PARITY_WARNING:
            self.events.warn(f"lowering to ONNX moved an output by {max(moved.values()):.2g}; see parity in the report")
        facts = {"between": "torch and ONNX Runtime", "max_abs_difference": moved, "samples": samples}
        record = StageRecord("lower", "lower", {}, time.perf_counter() - started, facts)
        return replace(lowered, history=(*model.history, record))

    def _some_inputs(self, model: Model) -> tuple[dict[str, np.ndarray], int]:
        """A few real samples where there is data, random ones otherwise."""
        if self.recipe.data is not None and len(split := self._dataset().split("calibration")) >= _PARITY_SAMPLES:
            return bind(next(split.batches(_PARITY_SAMPLES)), model.signature), _PARITY_SAMPLES
        rng = np.random.default_rng(0)
        inputs = {}
        for spec in model.signature.inputs:
            shape = concrete(spec, _PARITY_SAMPLES)
            values = rng.standard_normal(shape) if spec.dtype.startswith("float") else np.ones(shape)
            inputs[spec.name] = values.astype(spec.dtype)
        return inputs, _PARITY_SAMPLES

    def _apply(self, stage: Stage, model: Model) -> Model:
        spec: TechniqueSpec = techniques.get(stage.use)
        started = time.perf_counter()
        context = self._context(stage, spec)
        try:
            result = load(spec.implementation)(model, stage.params, context)
        except CompressctlError as error:
            error.message = f"stage {stage.id} ({stage.use}): {error.message}"
            raise
        except Exception as error:
            (self.folder / "error.log").write_text(traceback.format_exc())
            raise StageError(
                f"stage {stage.id} ({stage.use}) failed: {type(error).__name__}: {error}",
                hint=f"the full traceback is in {self.folder / 'error.log'}",
            ) from error
        facts = dict(result.facts)
        gated = self._hold(stage, spec, result.model, facts)
        record = StageRecord(
            stage.id, stage.use, stage.params.model_dump(mode="json"), time.perf_counter() - started, facts
        )
        self.records.append(record)
        kept = result.model if gated else model
        return replace(kept, history=(*model.history, record))

    def _hold(self, stage: Stage, spec: TechniqueSpec, model: Model, facts: dict[str, Any]) -> bool:
        """Whether the stage's result is kept under its gate. Raises GateError when it must stop the run."""
        if stage.gate is None:
            return True
        judge = self._judge()
        drop = judge.metric.drop(judge.baseline(), judge.score(model, "validation"))
        facts["validation_drop"] = drop
        if drop <= stage.gate.accuracy_drop:
            return True
        if stage.gate.otherwise == "skip":
            facts["skipped"] = (
                f"lost {drop:.2f} points on the validation split, the gate allows {stage.gate.accuracy_drop}"
            )
            self.events.warn(f"stage {stage.id} was skipped: {facts['skipped']}")
            return False
        raise GateError(
            f"stage {stage.id} ({stage.use}) lost {drop:.2f} points on the validation split, its gate allows "
            f"{stage.gate.accuracy_drop}",
            hint="loosen the gate, change the stage, or set gate.otherwise to skip",
        )

    def _context(self, stage: Stage, spec: TechniqueSpec) -> RunContext:
        scratch = self.folder / "scratch" / stage.id
        scratch.mkdir(parents=True, exist_ok=True)
        judge = self._judge() if self.recipe.data and self.plan.metric else None
        return RunContext(
            seed=stage_seed(self.recipe.seed, stage.id),
            events=self.events.within(stage.id),
            folder=scratch,
            target=self.plan.target,
            data=self._dataset() if self.recipe.data else None,
            score=judge.score if judge else None,
            baseline_score=judge.baseline if judge else None,
            open=judge.open if judge else None,
            gate=_bisected(stage.gate, spec),
            higher_is_better=judge.metric.higher_is_better if judge else True,
        )

    def _judge(self) -> Judge:
        if self._judged_by is None:
            assert self.plan.metric is not None
            metric: MetricSpec = metrics.get(self.plan.metric)
            backend = open_backend(self.plan.target.backend)
            self._judged_by = Judge(backend, self.plan.target, self._dataset(), metric, self._lowered_source)
        return self._judged_by

    def _loaded(self) -> Model:
        if self._source is None:
            from compressctl.sources.load import load_model

            self._source = load_model(self.recipe.model, self.recipe.base, self.recipe.seed)
        return self._source

    def _lowered_source(self) -> Model:
        """The original model as an ONNX graph: the baseline of every comparison, kept in the cache like a stage."""
        if self._lowered is None:
            self._lowered = self._read(self.plan.baseline_key) or self._lower_source()
        return self._lowered

    def _lower_source(self) -> Model:
        source = self._loaded()
        if source.form is Form.ONNX:
            return source
        lowered = self._lower(source)
        self._write(self.plan.baseline_key, lowered, "lower")
        return lowered

    def _dataset(self) -> Dataset:
        if self._data is None:
            from compressctl.sources.load import load_dataset

            assert self.recipe.data is not None
            self._data = load_dataset(self.recipe.data, self.recipe.base, self.recipe.seed)
        return self._data

    def _from_cache(self, step: Step) -> Model | None:
        found = self._read(step.key)
        if found is None and step.cached:
            self.events.warn(f"the cached output of {step.id} is damaged and is made again")
        return found

    def _keep(self, step: Step, model: Model) -> None:
        if step.key != self.plan.baseline_key:
            self._write(step.key, model, step.id)

    def _read(self, key: str | None) -> Model | None:
        folder = self.cache.read(key) if self.cache is not None and key is not None else None
        if folder is None:
            return None
        from compressctl.pipeline.store import read_model

        return read_model(folder, self._loaded)

    def _write(self, key: str | None, model: Model, step: str) -> None:
        if self.cache is None or key is None:
            return
        from compressctl.pipeline.store import NotStorableError, write_model

        try:
            self.cache.write(key, lambda folder: write_model(model, folder, self._source))
        except NotStorableError as reason:
            self.events.within(step).emit("note", message=f"not cached: {reason}")

    def _export_and_measure(self, model: Model) -> None:
        from compressctl.measure.artifact import measure
        from compressctl.measure.budget import check, facts_of

        metric: MetricSpec | None = metrics.get(self.plan.metric) if self.plan.metric else None
        dataset = self._scorable()
        for name in self.recipe.export:
            backend = open_backend(name)
            target = replace(self.plan.target, backend=name)
            root = self.folder / "artifacts" / name
            (root / "baseline").mkdir(parents=True, exist_ok=True)
            with self._step(Step(f"export-{name}", "export", name, None, None)):
                baseline = backend.build(self._lowered_source(), target, root / "baseline")
                compressed = backend.build(model, target, root)
            with self._step(Step(f"measure-{name}", "measure", name, None, None)) as _:
                events = self.events.within(f"measure-{name}")
                before, after = measure(baseline, compressed, backend, target, model, dataset, metric, events)
            self.results.append(BackendResult(name, backend.probe().version, before, after))
        first = self.results[0]
        self.budget.extend(check(self.recipe.budget, facts_of(first.compressed, metric.name if metric else "accuracy")))

    def _scorable(self) -> Dataset | None:
        """The data, when its test split can be scored; why not is said once."""
        if self.recipe.data is None:
            return None
        first = next(self._dataset().split("test").batches(1), None)
        if first is None or first.labels is None:
            self.events.warn(f"accuracy is not measured: the test split {'has no labels' if first else 'is empty'}")
            return None
        return self._dataset()

    @contextmanager
    def _step(self, step: Step) -> Iterator[dict[str, Any]]:
        events, started = self.events.within(step.id), time.perf_counter()
        events.emit("step.started", use=step.use, step_kind=step.kind)
        facts: dict[str, Any] = {}
        yield facts
        events.emit("step.finished", seconds=time.perf_counter() - started, **facts)


def open_backend(name: str) -> Backend:
    backend: Backend = load(backends.get(name).implementation)
    return backend


def parity_of(record: StageRecord) -> Parity:
    return Parity(record.facts["between"], record.facts["max_abs_difference"], record.facts["samples"])


def _bisected(gate: GateSection | None, spec: TechniqueSpec) -> Gate | None:
    """The gate as the technique sees it: only when it shall, and can, give parts back."""
    if gate is None or not spec.bisects or gate.otherwise in ("stop", "skip"):
        return None
    return Gate(gate.accuracy_drop)
