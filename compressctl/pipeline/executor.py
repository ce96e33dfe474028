"""The stages of one run, step by step: what it has gathered so far is what a partial report shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compressctl.core.data import SplitName
from compressctl.core.errors import CompressctlError, StageError
from compressctl.core.failures import failed_stage
from compressctl.core.model import Form, Model, OnnxModel, StageRecord, TorchModel
from compressctl.core.needs import FROM_DATA, SCORED, Need, declared_needs
from compressctl.core.registry import load
from compressctl.core.source import CannotBeWrittenError, model_sources
from compressctl.core.streaming import in_words as states_in_words
from compressctl.core.technique import Acceptance, RunContext, TechniqueSpec, techniques
from compressctl.core.undeclared import restricted
from compressctl.graph.lower import as_graph
from compressctl.measure.artifact import Subject
from compressctl.measure.results import BackendResult, BudgetCheck
from compressctl.measure.samples import in_words
from compressctl.measure.speed_words import load_words
from compressctl.pipeline.acceptance import is_fast_enough, is_within_gate
from compressctl.pipeline.deliver import Delivery
from compressctl.pipeline.evaluator import opened
from compressctl.pipeline.handed_model import model_digest, refuse_change
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.pipeline.pinned import write_pinned
from compressctl.pipeline.plan import Step, if_slower, stage_seed
from compressctl.pipeline.preflight import (
    SCORED_AT_ONCE,
    beyond_positions,
    check_images,
    check_judge,
    check_splits,
    check_text_model,
    fly,
    other_tokenizer,
    unfit_for,
)
from compressctl.pipeline.process_group import ProcessGroup, telling
from compressctl.pipeline.stage_result import checked
from compressctl.pipeline.unmatched import carried_out
from compressctl.pipeline.workspace import Workspace, in_float32, open_backend
from compressctl.recipe.image_steps import image_steps_in_words
from compressctl.recipe.needs import bisects, stage_needs
from compressctl.recipe.order import export_options
from compressctl.recipe.schema import Stage


@dataclass
class Executor:
    """One run in progress. records, results, budget: what it has found so far. is_strict, judged_on: see Delivery."""

    workspace: Workspace
    measure_level: MeasureLevel = MeasureLevel.STAGES
    process_group: ProcessGroup | None = None
    is_strict: bool = False
    judged_on: SplitName = "test"
    records: list[StageRecord] = field(default_factory=list)
    results: list[BackendResult] = field(default_factory=list)
    budget: list[BudgetCheck] = field(default_factory=list)
    _between: list[Subject] = field(default_factory=list)
    _network: Model | None = None
    _exported: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def preflight(self) -> None:
        """One real batch through loading, lowering, the runtime, loss and metric; see preflight.py. Raises what it finds."""
        with self.workspace.step(Step("preflight", "load", "one real batch", None, None)):
            check_text_model(self.workspace.recipe)
            model, data = (
                self.workspace.original_graph(),
                self.workspace.dataset() if self.workspace.recipe.data else None,
            )
            if self.workspace.recipe.image_steps is not None:
                for words in image_steps_in_words(self.workspace.recipe.image_steps):
                    self.workspace.events.warn(words)
            for said in (beyond_positions(self.workspace.recipe), other_tokenizer(self.workspace.recipe)):
                if said is not None:
                    self.workspace.events.warn(said)
            for stage in self._waiting() if data is not None else ():
                assert data is not None
                check_splits(stage.id, declared_needs(stage.params), data)
            if getattr(self.workspace.recipe.model.params, "states", None) == "auto":
                found_states = states_in_words(model.signature.states)
                self.workspace.events.warn(f"states are recognised by equal names and shapes: {found_states}")
            backend = open_backend(self.workspace.plan.target.backend)
            target = replace(self.workspace.target, options=in_float32(self.workspace.target.options))
            session = opened(model, backend, target, self.workspace.host)
            found = fly(model, session, self.workspace.samples, target, data)
            for note in found.notes:
                self.workspace.events.warn(note)
            if found.fixed_batch is not None:
                sizes = sorted({self.workspace.plan.target.batch_size, SCORED_AT_ONCE} - {1})
                self.workspace.events.warn(unfit_for(sizes, found.fixed_batch))
                model = self.workspace.take_one_at_a_time()
                session = opened(model, backend, target, self.workspace.host)
            if any(getattr(entry.params, "bundle", None) is not None for entry in self.workspace.recipe.export):
                from compressctl.pipeline.bundles import check_network

                check_network(self.workspace, model)
            if data is not None:
                recipe = self.workspace.recipe
                delivered = [
                    replace(target, backend=entry.backend, options=export_options(recipe, entry.backend))
                    for entry in recipe.export
                ]
                check_images(model.signature, self.workspace.samples, delivered)
                check_judge(model, session, self.workspace.judge, data)
            if data is not None and self._trains():
                from compressctl.training.preflight import check_loss

                check_loss(self.workspace.loaded(), data, self.workspace.learning)

    def not_done(self) -> list[str]:
        """The stages and deliverables of the recipe that this run has not come to."""
        done = {record.id for record in self.records}
        delivered = {found.backend for found in self.results}
        stages = [step.id for step in self.workspace.plan.steps if step.kind == "stage" and step.id not in done]
        return stages + [
            f"{'measure' if entry.backend in self._exported else 'export'}-{entry.backend}"
            for entry in self.workspace.recipe.export
            if entry.backend not in delivered
        ]

    @property
    def is_random(self) -> bool:
        """Whether what was flown was no data."""
        return self.workspace.samples.call(1).is_random

    def _waiting(self) -> list[Stage]:
        return [step.stage for step in self.workspace.plan.steps if step.stage is not None and not step.cached]

    def _trains(self) -> bool:
        """Whether a stage that is still to run takes the task's loss of the network."""
        takes_loss = any(Need.TASK_LOSS in declared_needs(stage.params).requires for stage in self._waiting())
        return takes_loss and isinstance(self.workspace.loaded(), TorchModel)

    def carry_out(self) -> None:
        self.preflight()
        model: Model | None = None
        steps = [step for step in self.workspace.plan.steps if step.kind in ("lower", "stage")]
        resume_at = self._furthest_cached(steps)
        last_torch = next((step for step in reversed(steps) if step.stage and step.gives is Form.TORCH), None)
        for position, step in enumerate(steps):
            with self.workspace.step(step) as done:
                if position < resume_at:
                    done.update(cached=True)
                    if self._is_between(step, steps):
                        self._set_aside(step, self.workspace.read(step.key, step.id))
                    continue
                cached = self.workspace.read(step.key, step.id) if position == resume_at else None
                if cached is not None and not self._is_refused(cached):
                    history = tuple(replace(record, cached=True) for record in cached.history)
                    model, self.records = replace(cached, history=history), list(history)
                    done.update(cached=True)
                    self._network = model if step is last_torch else None
                    if self._is_between(step, steps):
                        self._set_aside(step, model)
                    continue
                if model is None:
                    model = self.workspace.loaded() if position == 0 else self._previous(steps, position)
                model = self.perform(step, model)
                self.keep(step, model)
                self._network = model if step is last_torch else self._network
                if self._is_between(step, steps):
                    self._set_aside(step, model)
        if last_torch is not None:
            self._deliver_network(last_torch)
        write_pinned(self.workspace.folder, self.workspace.recipe, self.records)
        delivery = Delivery(
            self.workspace,
            self.records,
            self.results,
            self.budget,
            self._between,
            self.measure_level,
            self.is_strict,
            self.judged_on,
            self._exported,
        )
        delivery.all(as_graph(model) if model is not None else self.workspace.original_graph())

    def _is_between(self, step: Step, steps: Sequence[Step]) -> bool:
        """Whether the step's output shall be measured beside the final file: the last stage's output is that file."""
        last = next((other for other in reversed(steps) if other.kind == "stage"), None)
        return self.measure_level is MeasureLevel.STAGES and step.kind == "stage" and step is not last

    def _set_aside(self, step: Step, model: Model | None) -> None:
        """Build the stage's output for the target as if it were the last one, to be measured at the end."""
        if model is None:
            self.workspace.events.warn(f"stage {step.id} is not measured: its output is no longer in the cache")
            return
        folder = self.workspace.folder / "scratch" / "measured" / step.id
        folder.mkdir(parents=True, exist_ok=True)
        lowered = as_graph(model)
        backend = open_backend(self.workspace.plan.target.backend)
        target = replace(self.workspace.target, options=self.workspace.plan.target.options)
        self._between.append(Subject(step.id, backend.build(lowered, target, folder), lowered))

    def _is_refused(self, model: Model) -> bool:
        """Whether a run that left patterns out made it, and this one does not."""
        return self.workspace.recipe.unmatched == "error" and any(
            "unmatched" in record.facts for record in model.history
        )

    def _furthest_cached(self, steps: Sequence[Step]) -> int:
        """The last step whose output is cached: everything before it need not even be read."""
        cached = [
            position
            for position, step in enumerate(steps)
            if self.workspace.cache and step.key and step.key in self.workspace.cache
        ]
        return max(cached, default=-1)

    def _previous(self, steps: Sequence[Step], position: int) -> Model:
        """The furthest cached output turned out damaged: start over from the model."""
        model = self.workspace.loaded()
        for step in steps[:position]:
            model = self.perform(step, model)
        return model

    def perform(self, step: Step, model: Model) -> Model:
        """What the step makes of the model, which is recorded and not kept."""
        if step.kind == "lower":
            if isinstance(model, OnnxModel):
                return model  # a stage that would have made a network of the graph was skipped
            lowered = (
                self.workspace.original_graph()
                if step.key == self.workspace.plan.baseline_key
                else self.workspace.lower(model)
            )
            self.records = list(lowered.history)
            return lowered
        assert step.stage is not None
        return self._apply(step.stage, step.key, model)

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
        before = model_digest(model)
        try:
            result, left_out = carried_out(spec, model, stage.params, context, self.workspace.recipe.unmatched)
            result = checked(result)
            refuse_change(before, model)
        except CompressctlError as error:
            error.message = f"stage {stage.id} ({stage.use}): {error.message}"
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise failed_stage(f"stage {stage.id} ({stage.use})", error, self.workspace.folder) from error
        facts = {**result.facts, **({"unmatched": list(left_out)} if left_out else {})}
        kept = self._is_kept(stage, spec, (model, result.model), facts)
        if kept and "fidelity" not in facts:
            facts |= self._fidelity(stage, result.model)
        seconds = time.perf_counter() - started
        if not kept and isinstance(model, TorchModel) and isinstance(result.model, OnnxModel):
            model = self.workspace.lower(model)  # what follows was promised a graph
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
        if self.workspace.recipe.data is None:
            return {}
        try:
            found = self.workspace.evaluator().fidelity(model)
        except StageError as error:
            self.workspace.events.warn(
                f"stage {stage.id}: its outputs are not compared with the original's: {error.message}"
            )
            return {}
        return {} if found is None else {"fidelity": found}

    def _is_kept(self, stage: Stage, spec: TechniqueSpec, models: tuple[Model, Model], facts: dict[str, Any]) -> bool:
        """models: what the stage was given, and its result."""
        target = self.workspace.target
        wanted = if_slower(stage, spec, target)
        call = self.workspace.samples.call(target.batch_size)
        timed_on = f"{target.backend}, {load_words(call.samples, target.threads)}, {in_words(call)}"
        return is_within_gate(
            stage, models[1], self.workspace.evaluator, facts, self.workspace.events
        ) and is_fast_enough(stage, wanted, models, self.workspace.latency_ms, timed_on, facts, self.workspace.events)

    def _hand_out(self, stage: Stage, model: Model, process_group: ProcessGroup) -> None:
        """Give the other processes the stage's model, as files."""
        from compressctl.pipeline.serialization import NotStorableError, write_model

        folder = self.workspace.folder / "scratch" / "handed-out" / stage.id
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_model(model, folder, self.workspace.loaded())
        except NotStorableError as reason:
            raise StageError(
                f"stage {stage.id} ({stage.use}): the model cannot be given to the other processes: {reason}",
                hint="run it in one process",
            ) from reason
        process_group.hand_out(stage.id, folder)

    def context(self, stage: Stage, spec: TechniqueSpec, key: str | None) -> RunContext:
        """What a stage is given: what it declared, and nothing else."""
        needs = stage_needs(stage, spec)
        scratch = self.workspace.folder / "scratch" / stage.id
        scratch.mkdir(parents=True, exist_ok=True)
        evaluator = (
            self.workspace.evaluator()
            if self.workspace.recipe.data and (needs.any_of(SCORED) or bisects(stage, spec))
            else None
        )
        metric = evaluator.metric if evaluator else None
        everything = RunContext(
            seed=stage_seed(self.workspace.recipe.seed, stage.id),
            events=self.workspace.events.within(stage.id),
            folder=scratch,
            target=self.workspace.target,
            data=self.workspace.dataset() if self.workspace.recipe.data and needs.any_of(FROM_DATA) else None,
            score=evaluator.score if evaluator and metric else None,
            baseline_score=evaluator.baseline if evaluator and metric else None,
            open=evaluator.open if evaluator else None,
            accept=self._bisected(stage, spec),
            task=self.workspace.recipe.task,
            loss=self.workspace.learning.loss,
            distance=self.workspace.learning.distance,
            heads=self.workspace.learning.heads,
            metric=metric,
            decode=self.workspace.judge.decode if metric else None,
            base=self.workspace.recipe.base,
            latency_ms=self.workspace.kept_latency_ms if self.workspace.runs_target else None,
            latency_in=self.workspace.kept_latency_in,
            joules=self.workspace.joules,
            original=self.workspace.fresh_copy,
            checkpoint=self.workspace.checkpoint(key),
            processes=self.process_group.count if self.process_group is not None and _is_shared(spec) else 1,
        )
        return restricted(everything, needs, spec.name)

    def _bisected(self, stage: Stage, spec: TechniqueSpec) -> Callable[[Model], Acceptance] | None:
        """The gate as the technique sees it: only when it shall, and can, give parts back."""
        gate = stage.gate
        if gate is None or not bisects(stage, spec):
            return None
        evaluator = self.workspace.evaluator()
        return lambda model: evaluator.accept(model, gate)

    def keep(self, step: Step, model: Model) -> None:
        """Put the step's output into the cache."""
        if step.key != self.workspace.plan.baseline_key:
            self.workspace.write(step.key, model, step.id)

    def _deliver_network(self, step: Step) -> None:
        """What the torch stages made, as files that `model.weights` and `model.structure` of another recipe take."""
        from compressctl.pipeline.serialization import made_by
        from compressctl.sources.structure import NotDescribableError, write_network

        network = self._network or self.workspace.read(step.key, step.id)
        if network is None:
            self.workspace.events.warn("the trained network is not written: it is no longer in the cache")
            return
        if not isinstance(network, TorchModel):
            return  # what would have made it was skipped
        folder = self.workspace.folder / "artifacts" / "torch"
        folder.mkdir(parents=True, exist_ok=True)
        factory = network.factory
        base = self.workspace.recipe.base
        original = self.workspace.loaded() if factory is None else made_by(factory, base, network.signature)
        try:
            write_network(network.body, original.body, folder)
        except NotDescribableError as reason:
            self.workspace.events.warn(f"artifacts/torch is not written: {reason}")
        self._deliver_as_source(network)

    def _deliver_as_source(self, network: TorchModel) -> None:
        """The same as the library opens it that the recipe's model came from, where its source knows how."""
        section = self.workspace.recipe.model
        source = model_sources.get(section.source)
        if not source.write or network.factory is not None:
            return
        folder = self.workspace.folder / "artifacts" / source.folder
        write = load(source.write)
        try:
            write(network, section.params, self.workspace.recipe.base, folder)
        except CannotBeWrittenError as reason:
            self.workspace.events.warn(f"artifacts/{source.folder} is not written: {reason}")


def _is_shared(spec: TechniqueSpec) -> bool:
    """Whether all processes take part: in what trains, and in what may."""
    return spec.takes is Form.TORCH
