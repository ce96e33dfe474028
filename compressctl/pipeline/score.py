"""Scores of models in the middle of a run, each measured on the file that it would be shipped as."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from compressctl.core.backend import Backend, Session
from compressctl.core.data import Dataset, SplitName
from compressctl.core.model import Model
from compressctl.core.source import MetricSpec
from compressctl.core.target import Target
from compressctl.graph.lower import as_graph
from compressctl.measure.inputs import random_inputs
from compressctl.measure.quick_latency import medians_ms
from compressctl.measure.score import predict, score, scoring_batch


class Judge:
    """Builds a model for the target's runtime, opens it and scores it. original: gives the float model, once."""

    def __init__(
        self, backend: Backend, target: Target, data: Dataset, metric: MetricSpec, original: Callable[[], Model]
    ) -> None:
        self.metric = metric
        self._backend = backend
        self._target = replace(target, threads=0)
        self._data = data
        self._original = original
        self._baseline: float | None = None

    def open(self, model: Model) -> Session:
        """The model in the target's runtime; a torch model is lowered first."""
        with tempfile.TemporaryDirectory() as folder:
            return self._backend.open(self._backend.build(as_graph(model), self._target, Path(folder)), self._target)

    def score(self, model: Model, split: SplitName) -> float:
        """The task's metric on a split. A torch model is lowered first."""
        samples, model = self._data.split(split), as_graph(model)
        predictions = predict(self.open(model), samples, model.signature, scoring_batch(model, self._target), None)
        return score(predictions, self.metric, self._data.classes, split).value

    def baseline(self) -> float:
        """The original model's score on the validation split, measured once."""
        if self._baseline is None:
            self._baseline = self.score(self._original(), "validation")
        return self._baseline


def latency_ms(backend: Backend, target: Target, models: Sequence[Model]) -> tuple[float, ...]:
    """Medians on the target's runtime at its own batch and threads, the models in turn. Torch models are lowered first."""
    with tempfile.TemporaryDirectory() as folder:
        calls = []
        for number, model in enumerate(models):
            place = Path(folder) / str(number)
            place.mkdir()
            graph = as_graph(model)
            session = backend.open(backend.build(graph, target, place), target)
            calls.append(session.repeat(random_inputs(graph.signature, target.batch)))
        return medians_ms(calls)
