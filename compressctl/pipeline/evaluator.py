"""Scores of models in the middle of a run, each measured on the file that it would be shipped as."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.backend import Backend, Session
from compressctl.core.cache import Cache
from compressctl.core.data import Dataset, SplitName
from compressctl.core.events import Events
from compressctl.core.model import Model, OnnxModel, TorchModel
from compressctl.core.target import Target
from compressctl.core.tasks import Judge
from compressctl.core.technique import Acceptance
from compressctl.graph.branches import depends_on_input
from compressctl.graph.lower import as_graph
from compressctl.measure.budget import at_most, beside, drop_limit
from compressctl.measure.draws import with_draws
from compressctl.measure.fidelity_limits import fidelity_checks, missed
from compressctl.measure.quick_latency import Timing
from compressctl.measure.results import BudgetCheck
from compressctl.measure.samples import Samples, random_inputs
from compressctl.measure.score import Seen, decoded_change, predict, predict_all, score, scoring_batch, with_reference
from compressctl.measure.session_host import HostedSession, SessionHost
from compressctl.pipeline.sessions import RememberedSession, TorchSession
from compressctl.pipeline.timings import timed
from compressctl.recipe.schema import GateSection
from compressctl.sources.called import scored_samples


class Evaluator:
    """Builds a model for the target's runtime, opens it in a child process, scores it and compares it with the original.

    original: gives the float model. judge: what scores, and reads results off outputs. events: of the step that asks.
    """

    def __init__(
        self,
        backend: Backend,
        target: Target,
        data: Dataset,
        judge: Judge,
        original: Callable[[], OnnxModel],
        host: SessionHost,
        events: Callable[[], Events],
    ) -> None:
        self.metric = judge.metric
        self._events = events
        self._judge = judge
        self._backend = backend
        self._target = replace(target, threads=0)
        self._data = data
        self._original = original
        self._host = host
        self._baseline: float | None = None
        self._references: dict[SplitName, np.ndarray] = {}
        self._reference: RememberedSession | None = None
        self._accepted: tuple[Model, GateSection, Acceptance] | None = None

    def open(self, model: Model) -> HostedSession:
        """The model in the target's runtime; a torch model is lowered first."""
        return opened(as_graph(model), self._backend, self._target, self._host)

    def score(self, model: Model, split: SplitName) -> float:
        """The task's metric on a split. A torch model is lowered first."""
        assert self.metric is not None, "the pipeline lets a technique score only where there is a metric"
        samples, model = self._data.split(split), as_graph(model)
        size = scoring_batch(model, self._target)
        is_original = self._judge.together is not None and model is self._original()
        predictions = predict(
            self.open(model), samples, model.signature, size, self._events(), self._judge, is_original=is_original
        )
        if predictions.labels is None and self._judge.compared is not None:
            predictions = replace(predictions, labels=self._own_results(split))
        return score(predictions, self.metric, self._data.classes, split).value

    def _own_results(self, split: SplitName) -> np.ndarray:
        """The original's decoded results on a split, as labels."""
        assert self._judge.compared is not None
        if split not in self._references:
            model = self._original()
            size = scoring_batch(model, self._target)
            samples = self._data.split(split)
            found = predict(
                self.open(model), samples, model.signature, size, self._events(), self._judge, is_original=True
            )
            self._references[split] = self._judge.compared.as_labels(found.outputs)
        return self._references[split]

    def baseline(self) -> float:
        """The original model's score on the validation split, measured once."""
        if self._baseline is None:
            self._baseline = self.score(self._original(), "validation")
        return self._baseline

    def accept(self, model: Model, gate: GateSection) -> Acceptance:
        """Hold a stage's gate against a model on the validation split: one pass for its score and its outputs.

        A technique that held the gate itself hands over the model that it scored last, which is not scored again.
        """
        if self._accepted is not None and self._accepted[0] is model and self._accepted[1] == gate:
            return self._accepted[2]
        accepted = self.held_against(model, gate)
        if accepted.holds:
            self._accepted = (model, gate, accepted)
        return accepted

    def held_against(self, model: Model, gate: GateSection, split: SplitName = "validation") -> Acceptance:
        """The gate against a model on any split."""
        graph, session = as_graph(model), None
        if gate.kept is not None or gate.added is not None:
            session = self.open(graph)
        seen = self._seen(graph, split, None, session)
        parts = self._judge.parts
        decoded = {
            name: decoded_change(
                seen.predictions[name][0], seen.predictions[name][1], judge, self._data.classes, self._events()
            )
            for name, judge in parts.items()
        }
        if session is not None:
            decoded = with_draws(
                decoded,
                {name: found[0] for name, found in seen.predictions.items()},
                graph,
                lambda: session,
                self._data.split(split),
                self._target,
                self._judge,
                self._events(),
            )
        checks = list(fidelity_checks(gate, seen.fidelity[1], decoded))
        facts: dict[str, Any] = {"fidelity": fidelity_facts(seen, split)}
        for name, part in decoded.items():
            if part is not None:
                shown = part.model_dump(exclude={"classes"}, exclude_none=True)
                facts |= {"decoded": {**facts.get("decoded", {}), name: shown} if name else shown}
        drops = [
            self._drop(name, judge, seen, limit, split)
            for name, judge in parts.items()
            if (limit := drop_limit(gate, name)) is not None
        ]
        if drops:
            worst = max(drops, key=lambda check: -1.0 if check.actual is None else check.actual / (check.limit or 1e-9))
            facts["validation_drop"] = worst.actual
        checks += drops
        missed = [check for check in checks if not check.holds]
        words = "; ".join(_missed(check) for check in missed)
        return Acceptance(not missed, facts, words)

    def fidelity(self, model: Model) -> dict[str, Any] | None:
        """Every output against the original's on some samples, for the report; None where no split has any.

        A torch model is run by torch: what lowering changes is compared elsewhere.
        """
        split = next((name for name in _COMPARED_ON if len(scored_samples(self._data.split(name)))), None)
        return None if split is None else fidelity_facts(self._seen(model, split, _COMPARED), split)

    def _seen(self, model: Model, split: SplitName, most: int | None, session: Session | None = None) -> Seen:
        """session: the model's, where it is open already."""
        original = self._original()
        if self._reference is None:
            self._reference = RememberedSession(self.open(original))
        self._reference.begin((split, most))
        if session is None:
            session = TorchSession(model) if isinstance(model, TorchModel) else self.open(model)
        return predict_all(
            [self._reference, session],
            [original, model],
            self._data.split(split),
            self._target,
            self._events(),
            most=most,
            judge=self._judge,
        )

    def _drop(self, head: str, judge: Judge, seen: Seen, limit: float, split: SplitName) -> BudgetCheck:
        before, after = with_reference(seen.predictions[head], judge)
        metric, name = judge.metric, f"accuracy_drop of {head}" if head else "accuracy_drop"
        if metric is None or before is None or after is None or before.labels is None:
            return missed(name, limit, "nothing was scored")
        values = [score(found, metric, self._data.classes, split).value for found in (before, after)]
        if not head and split == "validation":
            self._baseline = values[0]
        drop = metric.drop(*values)
        if not math.isfinite(drop):
            values_shown = f"{values[0]:g} for the original and {values[1]:g} for the stage's model"
            return missed(
                name, limit, f"{metric.name} is {values_shown} on the {split} split: no drop follows from that"
            )
        shown = beside(limit, drop) if metric.unit == "%" else beside(limit, drop, 4, "g")
        return at_most(name, limit, drop, f"{head and f'{head}: '}{metric.drop_words(shown)}")


_COMPARED = 256
"""Samples on which each stage's outputs are compared; the file that is handed over is compared on all."""

_COMPARED_ON: tuple[SplitName, ...] = ("validation", "calibration", "train", "test")


def _missed(check: BudgetCheck) -> str:
    if check.actual is None:
        return f"{check.name}: {check.explanation}"
    if check.name.startswith("accuracy_drop"):
        return f"{check.explanation} on the validation split, the gate allows {check.limit:.12g}"
    actual = beside(check.limit, check.actual, 4, "g")
    return f"{check.name} {actual} on the validation split ({check.explanation}), the gate asks for {check.limit:.12g}"


def fidelity_facts(seen: Seen, split: str) -> dict[str, Any]:
    """The last model's outputs, ready for JSON."""
    return {
        "split": split,
        "samples": seen.samples,
        **({} if seen.steps is None else {"steps": seen.steps}),
        "outputs": {
            output.name: output.model_dump(exclude={"name", "churn"}, exclude_none=True) for output in seen.fidelity[-1]
        },
    }


_TURNS = 32
"""Samples whose calls are timed one after the other."""


def opened(model: OnnxModel, backend: Backend, target: Target, host: SessionHost) -> HostedSession:
    """A graph built for a runtime and opened in the child process; its file lives as long as the session."""
    folder = tempfile.TemporaryDirectory()
    return host.open(backend.build(model, target, Path(folder.name)), target, keep=folder)


def latency_ms(
    backend: Backend,
    target: Target,
    models: Sequence[Model],
    samples: Samples,
    host: SessionHost,
    cache: Cache | None = None,
) -> tuple[float, ...]:
    """Medians on the target's runtime at its own batch and threads, the models in turn, on the sample that reports time; where what one of them computes depends on the input,
    means over samples of the validation split.

    cache: where timings are kept and found; None measures.

    Torch models are lowered first. A model that takes other inputs than the recipe's, a layer alone, is given random ones.
    """
    ready = _Ready(models, target, samples)

    def measure() -> Timing:
        return host.time_in_turn([opened(graph, backend, target, host) for graph in ready.graphs], ready.given)

    # A kept timing is of structures, which do not tell what inputs decide.
    is_kept = target.device == "cpu" and not ready.varied
    return timed(ready.graphs, [calls[0] for calls in ready.given], target, cache if is_kept else None, measure)


def joules(
    backend: Backend, target: Target, models: Sequence[Model], samples: Samples, host: SessionHost
) -> tuple[float, ...]:
    """What one call of each takes on the target's runtime, as `latency_ms` runs them. Raises MachineError where nothing counts it."""
    ready = _Ready(models, target, samples)
    sessions = [opened(graph, backend, target, host) for graph in ready.graphs]
    return host.joules_in_turn(sessions, ready.given, target.device)


class _Ready:
    """Models as graphs, and by model the calls that are measured: one, or several where what one of them computes depends on the input."""

    def __init__(self, models: Sequence[Model], target: Target, samples: Samples) -> None:
        self.graphs = [as_graph(model) for model in models]
        self.varied = any(depends_on_input(graph.body.graph) for graph in self.graphs)
        batch = target.batch_size
        calls = samples.calls(batch, _TURNS, "validation") if self.varied else (samples.call(batch),)
        self.given = [
            [call.for_model(graph.signature) for call in calls]
            if calls[0].fits(graph.signature)
            else [random_inputs(graph.signature, batch)]
            for graph in self.graphs
        ]
