"""What a run works on: the recipe's model and data, the target, the cache, each brought when it is first asked for."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.backend import Backend, Session, backends
from compressctl.core.cache import Cache
from compressctl.core.data import Dataset
from compressctl.core.errors import MissingDeviceError, UsageError, in_short
from compressctl.core.events import Events
from compressctl.core.failures import unusable
from compressctl.core.feeds import feeds, samples_at_once
from compressctl.core.model import Model, OnnxModel, StageRecord, TorchModel, one_at_a_time
from compressctl.core.registry import load
from compressctl.core.target import Target, computing
from compressctl.core.tasks import Judge, Learning
from compressctl.core.technique import Clock
from compressctl.measure.samples import Samples, random_inputs
from compressctl.measure.session_host import SessionHost
from compressctl.pipeline.evaluator import Evaluator, joules, latency_ms, opened
from compressctl.pipeline.plan import Plan, Step
from compressctl.recipe.order import AS_THE_MODEL, export_options
from compressctl.recipe.schema import Recipe, onnx_file
from compressctl.sources.called import CalledDataset, steps_of
from compressctl.sources.python_code import author_function
from compressctl.tasks.judge import judge_of, learning_of
from compressctl.tasks.together import Together
from compressctl.training.in_memory import HeldDataset

_PARITY_SAMPLES = 16

_PARITY_WARNING = 1e-3
"""Float32 convolutions summed in another order differ by some 1e-5; a thousandth means that something else differs."""


@dataclass
class Workspace:
    """folder: the run's. cache: None where nothing is kept. host: the process in which files are opened while stages decide; another
    one measures what is handed over."""

    recipe: Recipe
    plan: Plan
    folder: Path
    cache: Cache | None
    events: Events
    host: SessionHost = field(default_factory=SessionHost)
    _source: Model | None = None
    _lowered: OnnxModel | None = None
    _data: Dataset | None = None
    _kept_evaluator: Evaluator | None = None
    _step_events: Events | None = None
    _is_cache_refused: bool = False
    _others: dict[str, Session] = field(default_factory=dict)
    _compressed: dict[str, Session] = field(default_factory=dict)

    def loaded(self) -> Model:
        """The recipe's model in its source's form. Raises UsageError when it cannot be loaded."""
        if self._source is None:
            from compressctl.sources.load import load_model, model_fingerprint

            source = load_model(self.recipe.model, self.recipe.base, self.recipe.seed)
            _check_unchanged(
                "model", self.plan.model_fingerprint, model_fingerprint(self.recipe.model, self.recipe.base)
            )
            self._source = source
        return self._source

    def fresh_copy(self) -> Model:
        """What the recipe loads, for a technique that may change it in place."""
        return copy.deepcopy(self.loaded())

    def original_graph(self) -> OnnxModel:
        """The original model as an ONNX graph: the baseline of every comparison, kept in the cache like a stage."""
        if self._lowered is None:
            kept = self.read(self.plan.baseline_key, "lower")
            self._lowered = kept if isinstance(kept, OnnxModel) else self._lower_source()
        return self._lowered

    def _lower_source(self) -> OnnxModel:
        source = self.loaded()
        if isinstance(source, OnnxModel):
            return source
        lowered = self._file_of(source) or self.lower(source)
        self.write(self.plan.baseline_key, lowered, "lower")
        return lowered

    def _file_of(self, source: TorchModel) -> OnnxModel | None:
        """The file that the network was made of, proven to compute the same on real samples; None where it was made of none."""
        from compressctl.sources.load import graph_of

        graph = graph_of(self.recipe.model, self.recipe.base)
        if graph is None:
            return None
        from compressctl.sources.graph_network.trainable import as_file, proven

        started = time.perf_counter()
        graph = as_file(graph, source)
        inputs, samples = self.some_inputs(graph)
        proven(graph, source, inputs)
        return self._with_parity(source, graph, inputs, samples, started)

    def lower(self, model: TorchModel) -> OnnxModel:
        """The model as an ONNX graph, with a record of how far its outputs moved."""
        from compressctl.graph.lower import lower

        started = time.perf_counter()
        lowered = lower(model)
        inputs, samples = self.some_inputs(lowered)
        return self._with_parity(model, lowered, inputs, samples, started)

    def _with_parity(
        self, model: TorchModel, lowered: OnnxModel, inputs: Mapping[str, np.ndarray], samples: int, started: float
    ) -> OnnxModel:
        from compressctl.graph.lower import parity

        moved = parity(model, lowered, inputs)
        if max(moved.values(), default=0.0) > _PARITY_WARNING:
            self.events.warn(f"lowering to ONNX moved an output by {max(moved.values()):.2g}; see parity in the report")
        facts = {"between": "torch and ONNX Runtime", "max_abs_difference": moved, "samples": samples}
        record = StageRecord("lower", "lower", {}, time.perf_counter() - started, facts)
        return replace(lowered, history=(*model.history, record))

    def some_inputs(self, model: Model) -> tuple[dict[str, np.ndarray], int]:
        """A few real samples where there is data, random ones otherwise; as many as their outputs allow."""
        if self.recipe.data is not None and (split := self.dataset().split("calibration")):
            found = next(feeds(split, model.signature, _PARITY_SAMPLES), None)
            if found is not None:
                return dict(found.inputs), found.count
        shapes = self.recipe.target.shapes
        most = samples_at_once(model.signature, random_inputs(model.signature, 1, shapes), 1)
        count = min(_PARITY_SAMPLES, most)
        return random_inputs(model.signature, count, shapes), count

    def dataset(self) -> Dataset:
        """The recipe's data, checked and held in memory where it fits; only where the recipe has some."""
        if self._data is None:
            from compressctl.sources.load import dataset_fingerprint, load_dataset
            from compressctl.sources.sanity import look_through
            from compressctl.tasks.told_apart import class_count

            assert self.recipe.data is not None
            data = load_dataset(
                self.recipe.data,
                self.recipe.base,
                self.recipe.seed,
                self.recipe.task,
                lambda: class_count(self.recipe, self.loaded().signature.outputs),
                {name: (head.task, partial(self._classes_of, name)) for name, head in self.recipe.heads.items()},
            )
            look_through(data)
            if self.recipe.pipeline is None:
                found = dataset_fingerprint(self.recipe.data, self.recipe.base, self.recipe.seed)
                _check_unchanged("data", self.plan.data_fingerprint, found)
            self._data = HeldDataset(data)
            if (together := self._together) is not None:
                session = self._opened(self.original_graph())
                self._data = CalledDataset(self._data, lambda split: together.calls(session, split))
            if (signature := self.loaded().signature).states:
                original = self._opened(self.original_graph())
                self._data = CalledDataset(self._data, lambda split: steps_of(original, signature, split))
        return self._data

    def _classes_of(self, head: str) -> int | None:
        from compressctl.tasks.told_apart import class_counts

        return class_counts(self.recipe, self.loaded().signature.outputs)[head]

    @cached_property
    def _together(self) -> Together | None:
        """What reads end results, where the model works together with other files."""
        pipeline = self.recipe.pipeline
        if pipeline is None:
            return None
        from compressctl.graph.lower import as_graph
        from compressctl.sources.load import load_model

        def others() -> dict[str, Session]:
            for name, section in pipeline.models.items():
                if name not in self._others:
                    self._others[name] = self._opened(as_graph(load_model(section, self.recipe.base, self.recipe.seed)))
            return self._others

        def compressed() -> dict[str, Session]:
            for name, file in section.compressed.items():
                if name not in self._compressed:
                    model = load_model(onnx_file(file), self.recipe.base, self.recipe.seed)
                    self._compressed[name] = self._opened(as_graph(model))
            return self._compressed

        section = pipeline.section
        function = author_function(section.function, self.recipe.base)
        return Together(section.function, function, section.role, others, section.args, compressed=compressed)

    def _opened(self, model: OnnxModel) -> Session:
        """The model as it came, in the target's runtime."""
        target = replace(self.plan.target, threads=0, options=in_float32(self.plan.target.options))
        return opened(model, open_backend(target.backend), target, self.host)

    @cached_property
    def samples(self) -> Samples:
        """What is timed and counted, wherever something is. Raises UsageError where the recipe names no axis of the model."""
        dataset = self.dataset() if self.recipe.data else None
        return Samples(self.original_graph().signature, dataset, self.recipe.target.shapes)

    @cached_property
    def target(self) -> Target:
        """The plan's, with the batch that the model takes and the shapes of the call that is timed, and without how files are stored."""
        batch = self.samples.signature.fixed_batch or self.plan.target.batch_size
        options = computing(self.plan.target.options)
        return replace(
            self.plan.target, batch_size=batch, input_shapes=self.samples.call(batch).shapes, options=options
        )

    def evaluator(self) -> Evaluator:
        if self._kept_evaluator is None:
            backend = open_backend(self.plan.target.backend)
            self._kept_evaluator = Evaluator(
                backend,
                self.target,
                self.dataset(),
                self.judge,
                self.original_graph,
                self.host,
                lambda: self._step_events or self.events,
            )
        return self._kept_evaluator

    @property
    def runs_target(self) -> bool:
        """Whether what this machine takes says anything about the target: not where another runtime stands in for it."""
        found = open_backend(self.plan.target.backend).probe()
        return bool(found.devices) or not found.stands_in

    @property
    def latency_ms(self) -> Clock:
        """Times models on the target's runtime, on the sample that reports time; raises MissingDeviceError where another one stands in for it."""
        backend = open_backend(self.plan.target.backend)

        def timed(models: Sequence[Model]) -> tuple[float, ...]:
            if not self.runs_target:
                raise MissingDeviceError(f"{self.plan.target.backend} cannot be timed here")
            return latency_ms(backend, self.target, models, self.samples, self.host)

        return timed

    @property
    def kept_latency_ms(self) -> Clock:
        """The same, where what was timed before is not timed again: for tables of costs, not for a verdict on one file."""
        return self.kept_latency_in(self.plan.target.backend)

    def kept_latency_in(self, name: str) -> Clock:
        """The same on another runtime, with what the recipe says about it. Raises MissingDependencyError."""
        backend, target = open_backend(name), self.target
        if name != target.backend:
            options = computing(export_options(self.recipe, name))
            target = replace(target, backend=name, options={**options, **AS_THE_MODEL})
        return lambda models: latency_ms(backend, target, models, self.samples, self.host, self.cache)

    @property
    def joules(self) -> Clock:
        """What a call of each takes on the target's runtime."""
        backend = open_backend(self.plan.target.backend)
        return lambda models: joules(backend, self.target, models, self.samples, self.host)

    def read(self, key: str | None, step: str) -> Model | None:
        """What the cache keeps of a step under a key; None where that is nothing, or damaged, of which it warns."""
        if self.cache is None or key is None or key not in self.cache:
            return None
        from compressctl.pipeline.serialization import read_model

        folder, reason = self.cache.read(key), ""
        try:
            if folder is not None:
                return read_model(folder, self.fresh_copy, self.recipe)
        except MemoryError:
            raise
        except Exception as error:
            # Whole, but nothing that this version wrote: whoever reads it may trip anywhere.
            self.cache.remove(key)
            reason = f" ({in_short(error)})"
        self.events.warn(f"the cached output of {step} is damaged and is not used{reason}")
        return None

    def write(self, key: str | None, model: Model, step: str) -> None:
        """Keep a step's output in the cache. That it cannot be stored, or that the cache takes nothing, is said."""
        if self.cache is None or key is None:
            return
        from compressctl.pipeline.serialization import NotStorableError, write_model

        try:
            self.cache.write(key, lambda folder: write_model(model, folder, self.loaded(), self.recipe.base))
        except NotStorableError as reason:
            self.events.within(step).emit("note", message=f"not cached: {reason}")
        except Exception as error:
            self._do_without_cache(error)
            return
        self.cache.finish(key)

    def checkpoint(self, key: str | None) -> Path | None:
        """A folder that outlives a killed run; None without a cache, or where it takes nothing."""
        if self.cache is None or key is None:
            return None
        try:
            return self.cache.unfinished(key)
        except OSError as error:
            self._do_without_cache(error)
            return None

    def _do_without_cache(self, error: Exception) -> None:
        """Warn once that the cache takes nothing. Raises the error when it is about something else."""
        reason = unusable(error)
        if reason is None:
            raise error
        if not self._is_cache_refused:
            self._is_cache_refused = True
            self.events.warn(f"the cache cannot be used, so a later run starts from the beginning: {reason.message}")

    @contextmanager
    def step(self, step: Step) -> Iterator[dict[str, Any]]:
        """Tell that a step begins and ends; what is put into the mapping is told with its end."""
        self.host.close_unused()
        self._step_events = events = self.events.within(step.id)
        started = time.perf_counter()
        events.emit("step.started", use=step.use, step_kind=step.kind)
        facts: dict[str, Any] = {}
        yield facts
        events.emit("step.finished", seconds=time.perf_counter() - started, **facts)
        self._step_events = None

    def close(self) -> None:
        """End the child process; it starts again when something is asked of it."""
        self.host.close()

    def _outputs(self) -> list[str]:
        """The original's, by name, where heads ask for them."""
        return [spec.name for spec in self.loaded().signature.outputs] if self.recipe.heads else []

    @cached_property
    def learning(self) -> Learning:
        """What labels teach."""
        return learning_of(self.recipe, self._outputs())

    @cached_property
    def judge(self) -> Judge:
        """What scores, and reads results off outputs."""
        return replace(judge_of(self.recipe, self._outputs()), together=self._together)

    def take_one_at_a_time(self) -> OnnxModel:
        """The original from now on as a model of one sample a call; returns it."""
        from compressctl.graph.dynamic_batch import fix_batch

        model = self.original_graph()
        fixed = replace(model, body=fix_batch(model.body, model.signature), signature=one_at_a_time(model.signature))
        self._source = self._lowered = fixed
        for cached in ("samples", "target"):
            self.__dict__.pop(cached, None)
        return fixed


def _check_unchanged(what: str, planned: str | None, found: str) -> None:
    """What was loaded is what the run's keys and its lock name, or its results would be kept as those of other files."""
    if found != planned:
        raise UsageError(
            f"the {what}'s files changed between the plan and their loading",
            hint="run it again when nothing writes them",
        )


def open_backend(name: str) -> Backend:
    backend: Backend = load(backends.get(name).implementation)
    return backend


def in_float32(options: Mapping[str, Any]) -> dict[str, Any]:
    """What every comparison begins from: the model as it came, whatever the deliverable's float layers become."""
    plain = {
        "precision": "float32",
        "float16_constants": False,
        "weights": None,
        "kv_cache": "float32",
        **AS_THE_MODEL,
    }
    return {**computing(options), **{name: value for name, value in plain.items() if name in options}}
