"""The work of one run, step by step: what it has gathered so far is what a partial report shows."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.backend import Backend, backends
from compressctl.core.cache import Cache
from compressctl.core.data import Dataset
from compressctl.core.errors import CompressctlError, CrashError, StageError
from compressctl.core.events import Events
from compressctl.core.failures import failed_stage
from compressctl.core.feeds import feeds
from compressctl.core.model import Form, Model, StageRecord, one_at_a_time
from compressctl.core.needs import FROM_DATA, SCORED, Need, declared_needs
from compressctl.core.registry import load
from compressctl.core.source import MetricSpec, metrics
from compressctl.core.target import Target
from compressctl.core.technique import Acceptance, RunContext, TechniqueSpec, techniques
from compressctl.core.undeclared import restricted
from compressctl.measure.artifact import Subject
from compressctl.measure.crash import with_node
from compressctl.measure.fidelity_limits import strict_checks
from compressctl.measure.results import Parity
from compressctl.measure.samples import Samples, in_words, random_inputs
from compressctl.measure.session_host import SessionHost
from compressctl.measure.speed_words import load_words
from compressctl.pipeline.acceptance import Timer, is_fast_enough, is_within_gate
from compressctl.pipeline.evaluator import Evaluator, latency_ms, opened
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.pipeline.pinned import write_pinned
from compressctl.pipeline.plan import Plan, Step, if_slower, stage_seed
from compressctl.pipeline.preflight import SCORED_AT_ONCE, check_metric, check_splits, fly, unfit_for
from compressctl.pipeline.process_group import ProcessGroup, telling
from compressctl.pipeline.result import BackendResult
from compressctl.recipe.needs import bisects, stage_needs
from compressctl.recipe.order import export_options
from compressctl.recipe.schema import Recipe, Stage
from compressctl.training.in_memory import HeldDataset

_PARITY_SAMPLES = 16
_DELIVERABLES_AGREE = 0.3
"""Points between two deliverables of one model beyond which the report says where they part."""

_PARITY_WARNING = 1e-3
"""Float32 convolutions summed in another order differ by some 1e-5; a thousandth means that something else differs."""


@dataclass
class Executor:
    """One run in progress. records, results, budget: what it has found so far.

    is_strict: whether outputs that are far from the original's, or were not compared, count as a missed budget.
    """

    recipe: Recipe
    plan: Plan
    folder: Path
    cache: Cache | None
    events: Events
    measure_level: MeasureLevel = MeasureLevel.STAGES
    process_group: ProcessGroup | None = None
    is_strict: bool = False
    records: list[StageRecord] = field(default_factory=list)
    results: list[BackendResult] = field(default_factory=list)
    budget: list[Any] = field(default_factory=list)
    _between: list[tuple[str, Subject]] = field(default_factory=list)
    _source: Model | None = None
    _lowered: Model | None = None
    _data: Dataset | None = None
    _kept_evaluator: Evaluator | None = None
    _network: Model | None = None

    def preflight(self) -> None:
        """One real batch through loading, lowering, the runtime, loss and metric; see preflight.py. Raises what it finds."""
        from compressctl.graph.fix_batch import fix_batch

        with self._step(Step("preflight", "load", "one real batch", None, None)):
            model, data = self._lowered_source(), self._dataset() if self.recipe.data else None
            for stage in self._waiting() if data is not None else ():
                assert data is not None
                check_splits(stage.id, declared_needs(stage.params), data)
            backend = open_backend(self.plan.target.backend)
            target = replace(self._target, options=_in_float32(self._target.options))
            session = opened(model, backend, target, self._host)
            found = fly(model, session, self._samples, target, data)
            for note in found.notes:
                self.events.warn(note)
            if found.fixed_batch is not None:
                sizes = sorted({self.plan.target.batch, SCORED_AT_ONCE} - {1})
                self.events.warn(unfit_for(sizes, found.fixed_batch))
                model = replace(
                    model, body=fix_batch(model.body, model.signature), signature=one_at_a_time(model.signature)
                )
                self._source = self._lowered = model
                for cached in ("_samples", "_target"):
                    self.__dict__.pop(cached, None)
                session = opened(model, backend, target, self._host)
            if data is not None and self.plan.metric is not None:
                check_metric(model, session, metrics.get(self.plan.metric), data)
            if data is not None and self._trains():
                from compressctl.training.preflight import check_loss

                check_loss(self._loaded(), data, self.recipe.task)

    def _waiting(self) -> list[Stage]:
        return [step.stage for step in self.plan.steps if step.stage is not None and not step.cached]

    @property
    def is_random(self) -> bool:
        """Whether what was flown was no data."""
        return self._samples.call(1).is_random

    def _trains(self) -> bool:
        """Whether a stage that is still to run takes the task's loss of the network."""
        takes_loss = any(Need.TASK_LOSS in declared_needs(stage.params).requires for stage in self._waiting())
        return takes_loss and self._loaded().form is Form.TORCH

    def carry_out(self) -> None:
        self.preflight()
        model: Model | None = None
        steps = [step for step in self.plan.steps if step.kind in ("lower", "stage")]
        resume_at = self._furthest_cached(steps)
        last_torch = next((step for step in reversed(steps) if step.stage and step.gives is Form.TORCH), None)
        for position, step in enumerate(steps):
            with self._step(step) as done:
                if position < resume_at:
                    done.update(cached=True)
                    if self._is_between(step, steps):
                        self._set_aside(step, self._read(step.key))
                    continue
                cached = self._from_cache(step) if position == resume_at else None
                if cached is not None:
                    model = cached
                    done.update(cached=True)
                    self.records = [replace(record, cached=True) for record in model.history]
                    self._network = model if step is last_torch else None
                    if self._is_between(step, steps):
                        self._set_aside(step, model)
                    continue
                if model is None:
                    model = self._loaded() if position == 0 else self._previous(steps, position)
                model = self._perform(step, model)
                self._keep(step, model)
                self._network = model if step is last_torch else self._network
                if self._is_between(step, steps):
                    self._set_aside(step, model)
        if last_torch is not None:
            self._deliver_network(last_torch)
        write_pinned(self.folder, self.recipe, self.records)
        self._export_and_measure(model or self._lowered_source())

    def _deliver_network(self, step: Step) -> None:
        """What the torch stages made, as files that `model.weights` and `model.structure` of another recipe take."""
        from compressctl.pipeline.serialization import made_by
        from compressctl.sources.structure import NotDescribableError, write_network

        network = self._network or self._read(step.key)
        if network is None:
            self.events.warn("the trained network is not written: it is no longer in the cache")
            return
        if network.form is not Form.TORCH:
            return  # what would have made it was skipped
        folder = self.folder / "artifacts" / "torch"
        folder.mkdir(parents=True, exist_ok=True)
        factory = network.factory
        original = self._loaded() if factory is None else made_by(factory, self.recipe.base)
        try:
            write_network(network.body, original.body, folder)
        except NotDescribableError as reason:
            self.events.warn(f"the trained network is not written: {reason}")

    def _is_between(self, step: Step, steps: Sequence[Step]) -> bool:
        """Whether the step's output shall be measured beside the final file: the last stage's output is that file."""
        last = next((other for other in reversed(steps) if other.kind == "stage"), None)
        return self.measure_level is MeasureLevel.STAGES and step.kind == "stage" and step is not last

    def _set_aside(self, step: Step, model: Model | None) -> None:
        """Build the stage's output for the target as if it were the last one, to be measured at the end."""
        from compressctl.graph.lower import as_graph

        if model is None:
            self.events.warn(f"stage {step.id} is not measured: its output is no longer in the cache")
            return
        folder = self.folder / "scratch" / "measured" / step.id
        folder.mkdir(parents=True, exist_ok=True)
        lowered = as_graph(model)
        backend = open_backend(self.plan.target.backend)
        self._between.append((step.id, Subject(backend.build(lowered, self._target, folder), lowered)))

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
            if model.form is Form.ONNX:
                return model  # a stage that would have made a network of the graph was skipped
            lowered = self._lowered_source() if step.key == self.plan.baseline_key else self._lower(model)
            self.records = list(lowered.history)
            return lowered
        assert step.stage is not None
        return self._apply(step.stage, step.key, model)

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
        if self.recipe.data is not None and (split := self._dataset().split("calibration")):
            found = next(feeds(split, model.signature, _PARITY_SAMPLES), None)
            if found is not None:
                return dict(found.inputs), found.count
        return random_inputs(model.signature, _PARITY_SAMPLES, self.recipe.target.shapes), _PARITY_SAMPLES

    def _apply(self, stage: Stage, key: str | None, model: Model) -> Model:
        spec: TechniqueSpec = techniques.get(stage.use)
        if model.form not in spec.forms:
            raise StageError(
                f"stage {stage.id} ({stage.use}) works on the network of an earlier stage, and that one was skipped",
                hint="loosen the earlier stage's gate, or leave both stages out",
            )
        started = time.perf_counter()
        context = self.context(stage, spec, key)
        if self.process_group is not None and context.processes > 1:
            self._hand_out(stage, model, self.process_group)
            context = telling(context, self.process_group)
        try:
            result = load(spec.implementation)(model, stage.params, context)
        except CompressctlError as error:
            error.message = f"stage {stage.id} ({stage.use}): {error.message}"
            raise
        except Exception as error:
            raise failed_stage(f"stage {stage.id} ({stage.use})", error, self.folder) from error
        facts = dict(result.facts)
        kept = self._is_kept(stage, spec, (model, result.model), facts)
        if kept and "fidelity" not in facts:
            facts |= self._fidelity(stage, result.model)
        seconds = time.perf_counter() - started
        if not kept and (model.form, result.model.form) == (Form.TORCH, Form.ONNX):
            model = self._lower(model)  # what follows was promised a graph
            self.records = list(model.history)
        record = StageRecord(
            stage.id,
            stage.use,
            stage.params.model_dump(mode="json"),
            seconds,
            facts,
            pinned=result.pinned if kept else None,
        )
        self.records.append(record)
        return replace(result.model if kept else model, history=(*model.history, record))

    def _fidelity(self, stage: Stage, model: Model) -> dict[str, Any]:
        """How near the stage's outputs are to the original's, as a fact; where that cannot be said, why not."""
        if self.recipe.data is None:
            return {}
        try:
            found = self._evaluator().fidelity(model)
        except StageError as error:
            self.events.warn(f"stage {stage.id}: its outputs are not compared with the original's: {error.message}")
            return {}
        return {} if found is None else {"fidelity": found}

    def _is_kept(self, stage: Stage, spec: TechniqueSpec, models: tuple[Model, Model], facts: dict[str, Any]) -> bool:
        """models: what the stage was given, and its result."""
        target = self._target
        wanted = if_slower(stage, spec, target)
        call = self._samples.call(target.batch)
        timed_on = f"{target.backend}, {load_words(call.samples, target.threads)}, {in_words(call)}"
        return is_within_gate(stage, models[1], self._evaluator, facts, self.events) and is_fast_enough(
            stage, wanted, models, self._latency_ms, timed_on, facts, self.events
        )

    def _hand_out(self, stage: Stage, model: Model, process_group: ProcessGroup) -> None:
        """Give the other processes the stage's model, as files."""
        from compressctl.pipeline.serialization import NotStorableError, write_model

        folder = self.folder / "scratch" / "handed-out" / stage.id
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_model(model, folder, self._loaded())
        except NotStorableError as reason:
            raise StageError(
                f"stage {stage.id} ({stage.use}): the model cannot be given to the other processes: {reason}",
                hint="run it in one process",
            ) from reason
        process_group.hand_out(stage.id, folder)

    @property
    def _latency_ms(self) -> Timer:
        backend = open_backend(self.plan.target.backend)
        return lambda models: latency_ms(backend, self._target, models, self._samples, self._host)

    def context(self, stage: Stage, spec: TechniqueSpec, key: str | None) -> RunContext:
        """What a stage is given: what it declared, and nothing else."""
        needs = stage_needs(stage, spec)
        scratch = self.folder / "scratch" / stage.id
        scratch.mkdir(parents=True, exist_ok=True)
        evaluator = self._evaluator() if self.recipe.data and (needs.any_of(SCORED) or bisects(stage, spec)) else None
        metric = evaluator.metric if evaluator else None
        everything = RunContext(
            seed=stage_seed(self.recipe.seed, stage.id),
            events=self.events.within(stage.id),
            folder=scratch,
            target=self._target,
            data=self._dataset() if self.recipe.data and needs.any_of(FROM_DATA) else None,
            score=evaluator.score if evaluator and metric else None,
            baseline_score=evaluator.baseline if evaluator and metric else None,
            open=evaluator.open if evaluator else None,
            accept=self._bisected(stage, spec),
            task=self.recipe.task,
            metric=metric,
            base=self.recipe.base,
            latency_ms=self._latency_ms,
            original=self.fresh_copy,
            checkpoint=self.cache.unfinished(key) if self.cache is not None and key is not None else None,
            processes=self.process_group.count if self.process_group is not None and _is_shared(spec) else 1,
        )
        return restricted(everything, needs, spec.name)

    def _bisected(self, stage: Stage, spec: TechniqueSpec) -> Callable[[Model], Acceptance] | None:
        """The gate as the technique sees it: only when it shall, and can, give parts back."""
        gate = stage.gate
        if gate is None or not bisects(stage, spec):
            return None
        evaluator = self._evaluator()
        return lambda model: evaluator.accept(model, gate)

    def fresh_copy(self) -> Model:
        """What the recipe loads, for a technique that may change it in place."""
        source = self._loaded()
        return replace(source, body=copy.deepcopy(source.body))

    def _evaluator(self) -> Evaluator:
        if self._kept_evaluator is None:
            metric: MetricSpec | None = metrics.get(self.plan.metric) if self.plan.metric else None
            backend = open_backend(self.plan.target.backend)
            self._kept_evaluator = Evaluator(
                backend, self._target, self._dataset(), metric, self._lowered_source, self._host, self.recipe.task
            )
        return self._kept_evaluator

    @cached_property
    def _host(self) -> SessionHost:
        """The process in which files are opened while stages decide; another one measures what is handed over."""
        return SessionHost()

    @cached_property
    def _samples(self) -> Samples:
        """What is timed and counted, wherever something is. Raises UsageError where the recipe names no axis of the model."""
        dataset = self._dataset() if self.recipe.data else None
        return Samples(self._lowered_source().signature, dataset, self.recipe.target.shapes)

    @cached_property
    def _target(self) -> Target:
        """The plan's, with the batch that the model takes and the shapes of the call that is timed."""
        batch = self._samples.signature.fixed_batch or self.plan.target.batch
        return replace(self.plan.target, batch=batch, input_shapes=self._samples.call(batch).shapes)

    def close(self) -> None:
        """End the child process."""
        if "_host" in self.__dict__:
            self._host.close()

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
            from compressctl.sources.sanity import class_count, look_through

            assert self.recipe.data is not None
            data = load_dataset(
                self.recipe.data,
                self.recipe.base,
                self.recipe.seed,
                self.recipe.task,
                lambda: class_count(self._loaded().signature.outputs),
            )
            look_through(data)
            self._data = HeldDataset(data)
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
        from compressctl.pipeline.serialization import read_model

        return read_model(folder, self.fresh_copy, self.recipe.base)

    def _write(self, key: str | None, model: Model, step: str) -> None:
        if self.cache is None or key is None:
            return
        from compressctl.pipeline.serialization import NotStorableError, write_model

        try:
            self.cache.write(key, lambda folder: write_model(model, folder, self._loaded(), self.recipe.base))
        except NotStorableError as reason:
            self.events.within(step).emit("note", message=f"not cached: {reason}")
        self.cache.finish(key)

    def _export_and_measure(self, model: Model) -> None:
        from compressctl.measure.budget import check, facts_of

        metric: MetricSpec | None = metrics.get(self.plan.metric) if self.plan.metric else None
        dataset = self._scorable(metric)
        self._compare_ranges(model)
        names = [entry.backend for entry in self.recipe.export]
        failures: dict[str, CompressctlError] = {}
        for name in names:
            try:
                found = self._deliver(name, model, dataset, metric)
                self.results.append(self._packed(found) if self.recipe.pack else found)
            except CompressctlError as error:
                failures[name] = error
        if self.results:
            self._compare_deliverables(model)
        first = next((found.compressed for found in self.results if found.backend == names[0]), None)
        self.budget.extend(check(self.recipe.budget, facts_of(first, metric.name if metric else "accuracy")))
        if self.is_strict:
            self.budget.extend(strict_checks((found.backend, found.compressed.fidelity) for found in self.results))
        if failures:
            raise _failed(failures, len(names))

    def _deliver(self, name: str, model: Model, dataset: Dataset | None, metric: MetricSpec | None) -> BackendResult:
        """One deliverable, built and measured beside the float model in the same runtime."""
        backend = open_backend(name)
        target = replace(self._target, backend=name, options=export_options(self.recipe, name))
        root = self.folder / "artifacts" / name
        (root / "baseline").mkdir(parents=True, exist_ok=True)
        with self._step(Step(f"export-{name}", "export", name, None, None)):
            source, plain = self._lowered_source(), replace(target, options=_in_float32(target.options))
            baseline = Subject(backend.build(source, plain, root / "baseline"), source)
            compressed = Subject(backend.build(model, target, root), model)
        with self._step(Step(f"measure-{name}", "measure", name, None, None)):
            try:
                return self._measure(baseline, compressed, backend, target, dataset, metric)
            except CrashError as error:
                given = self._samples.call(target.batch).for_model(model.signature)
                raise with_node(error, compressed.artifact, target, given) from error

    def _compare_ranges(self, model: Model) -> None:
        """Say, and record with the stage that fixed them, whether ranges of activations fit the test data too."""
        from compressctl.measure.range_coverage import range_coverage

        if self.recipe.data is None or model.quant is None:
            return
        found = range_coverage(model, self._dataset())
        stage = next((n for n, record in enumerate(self.records) if "calibration_samples" in record.facts), None)
        if found is None or stage is None:
            return
        record = self.records[stage]
        self.records[stage] = replace(record, facts={**record.facts, "test_activations": str(found)})
        if found.is_notable:
            self.events.warn(f"the calibration data are unlike the test data: {found}")

    def _packed(self, found: BackendResult) -> BackendResult:
        from compressctl.measure.packed_size import packed_size

        packed = packed_size(found.compressed.artifact)
        if packed is None:
            self.events.warn(f"{found.backend}'s file is not packed: only ONNX files are")
        return replace(found, compressed=replace(found.compressed, packed=packed))

    def _compare_deliverables(self, model: Model) -> None:
        """Warn where one deliverable scores otherwise than the first, with the layer at which the two files part."""
        from compressctl.backends.onnx_file import to_onnx
        from compressctl.measure.divergence import first_divergence

        first = self.results[0]
        for other in self.results[1:]:
            old, new = first.compressed.score, other.compressed.score
            if old is None or new is None or abs(old.value - new.value) <= _DELIVERABLES_AGREE:
                continue
            inputs, _ = self._some_inputs(model)
            graphs = [
                to_onnx(model, replace(self._target, backend=name, options=export_options(self.recipe, name)))
                for name in (first.backend, other.backend)
            ]
            found = first_divergence(graphs[0], graphs[1], inputs)
            where = (
                "" if found is None else f"; the files part at {found.node}, whose outputs differ by {found.share:.1%}"
            )
            self.events.warn(
                f"{other.backend} scores {new.value:.2f} where {first.backend} scores {old.value:.2f}{where}"
            )

    def _measure(
        self,
        baseline: Subject,
        compressed: Subject,
        backend: Backend,
        target: Target,
        dataset: Dataset | None,
        metric: MetricSpec | None,
    ) -> BackendResult:
        from compressctl.measure.artifact import MeasurementConfig, measure
        from compressctl.measure.latency import QUICK, STANDARD

        quick = self.measure_level is MeasureLevel.QUICK
        between = self._between if target.backend == self.plan.target.backend else []
        found, noise = measure(
            [baseline, *(subject for _, subject in between), compressed],
            MeasurementConfig(
                backend,
                target,
                self.recipe.task,
                self._samples,
                dataset,
                metric,
                QUICK if quick else STANDARD,
                not quick,
            ),
            self.events.within(f"measure-{target.backend}"),
        )
        if noise is not None and noise.noisy:
            self.events.warn(
                f"the machine was noisy while {target.backend} was timed: one file's latency varied by {noise.spread:.0%}, "
                f"other programs took {noise.other_load:.0%} of the processors; run it again before you trust a small difference"
            )
        stages = tuple((name, part) for (name, _), part in zip(between, found[1:-1], strict=True))
        return BackendResult(target.backend, backend.probe().version, found[0], found[-1], noise, stages)

    def _scorable(self, metric: MetricSpec | None) -> Dataset | None:
        """The data, if there are any; why nothing is scored is said once."""
        if self.recipe.data is None:
            return None
        first = next(self._dataset().split("test").batches(1), None)
        if first is None:
            self.events.warn(f"{metric.name if metric else 'accuracy'} is not measured: the test split is empty")
        elif first.labels is None and metric is not None:
            self.events.warn(f"{metric.name} is not measured: the test split has no labels")
        return self._dataset()

    @contextmanager
    def _step(self, step: Step) -> Iterator[dict[str, Any]]:
        events, started = self.events.within(step.id), time.perf_counter()
        events.emit("step.started", use=step.use, step_kind=step.kind)
        facts: dict[str, Any] = {}
        yield facts
        events.emit("step.finished", seconds=time.perf_counter() - started, **facts)


def _failed(failures: Mapping[str, CompressctlError], count: int) -> CompressctlError:
    """What ends a run in which deliverables failed, after the others were measured."""
    for name, error in failures.items():
        error.message = f"{name}: {error.message}"
    if len(failures) == 1 and count == 1:
        return next(iter(failures.values()))
    head = f"{len(failures)} of {count} deliverables failed" + (
        "" if len(failures) == count else "; the others are measured"
    )
    return StageError("\n".join([f"{head}:", *(f"   {error}" for error in failures.values())]))


def open_backend(name: str) -> Backend:
    backend: Backend = load(backends.get(name).implementation)
    return backend


def _in_float32(options: Mapping[str, Any]) -> dict[str, Any]:
    """What every comparison begins from: the model as it came, whatever the deliverable's float layers become."""
    plain = {"precision": "float32", "half_constants": False, "weights": None, "storage": "plain"}
    return {**options, **{name: value for name, value in plain.items() if name in options}}


def parity_of(record: StageRecord) -> Parity:
    return Parity(record.facts["between"], record.facts["max_abs_difference"], record.facts["samples"])


def _is_shared(spec: TechniqueSpec) -> bool:
    """Whether all processes take part: in what trains, and in what may."""
    return spec.takes is Form.TORCH
