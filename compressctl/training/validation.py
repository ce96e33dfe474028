"""How good a network is on the validation split, while it trains: what chooses epochs, never what is reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from compressctl.core.data import Split
from compressctl.core.model import Signature
from compressctl.core.objects import as_objects, joined
from compressctl.core.registry import load
from compressctl.core.source import MetricSpec, SummedMetric, read_only
from compressctl.core.tasks import Decode
from compressctl.core.technique import RunContext
from compressctl.graph.torch_outputs import named_outputs
from compressctl.training.data import TensorBatch, tensor_batches
from compressctl.training.in_memory import hold
from compressctl.training.objective import Objective, first_output
from compressctl.training.processes import Processes


@dataclass(frozen=True)
class Validation:
    """metric: None where the recipe has none or the split no labels; then the score is the mean loss, and lower is better."""

    split: Split
    signature: Signature
    metric: MetricSpec | None
    objective: Objective
    batch_size: int
    is_channels_last: bool
    decode: Decode | None = None

    @property
    def name(self) -> str:
        return self.metric.name if self.metric else "loss"

    def is_better(self, score: float, than: float) -> bool:
        higher = self.metric is not None and self.metric.higher_is_better
        return score > than if higher else score < than

    def score(self, network: nn.Module, processes: Processes) -> float:
        """In float32 and eval mode, whatever training computes in; the network's mode comes back."""
        was_training = network.training
        network.eval()
        try:
            with torch.no_grad():
                return self._metric(network, processes) if self.metric else self._loss(network, processes)
        finally:
            network.train(was_training)

    def _metric(self, network: nn.Module, processes: Processes) -> float:
        assert self.metric is not None
        metric = load(self.metric.implementation) if self.metric.implementation else None
        keep = metric.totals if isinstance(metric, SummedMetric) else _as_they_are
        found: list[tuple[int, Any]] = []
        for number, batch in enumerate(tensor_batches(self.split, self.signature, self.batch_size)):
            if number % processes.count == processes.index:
                given = self._results(network, batch.to(processes.device, is_channels_last=self.is_channels_last))
                assert batch.labels is not None
                found.append((number, keep(read_only(given), read_only(batch.labels.numpy()))))
        kept = [part for _, part in sorted(processes.gather(found), key=lambda part: part[0])]
        if isinstance(metric, SummedMetric):
            return float(metric.value(np.sum(kept, axis=0)))
        outputs, labels = (joined([part[position] for part in kept]) for position in (0, 1))
        return self.metric.score(outputs, labels)

    def _results(self, network: nn.Module, batch: TensorBatch) -> np.ndarray:
        """What the metric takes."""
        if self.decode is None:
            return first_output(network, batch).float().cpu().numpy()
        outputs = named_outputs(network(*batch.inputs))
        return as_objects(self.decode({name: tensor.float().cpu().numpy() for name, tensor in outputs.items()}))

    def _loss(self, network: nn.Module, processes: Processes) -> float:
        total, count = 0.0, 0
        for batch in tensor_batches(self.split, self.signature, self.batch_size):
            placed = batch.to(processes.device, is_channels_last=self.is_channels_last)
            total, count = total + self.objective(network, placed).item() * len(batch), count + len(batch)
        return total / count


def _as_they_are(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return outputs, labels


def validation_of(
    run: RunContext, signature: Signature, objective: Objective, batch_size: int, *, is_channels_last: bool
) -> Validation | None:
    """None without samples to validate on."""
    if run.data is None or len(split := run.data.split("validation")) == 0:
        return None
    held = hold(split)
    has_labels = next(held.batches(1)).labels is not None
    metric = run.metric if has_labels else None
    return Validation(held, signature, metric, objective, batch_size, is_channels_last, run.decode if metric else None)
