"""How well teacher and student do on held-out samples, in the form in which they are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.data import Split
from compressctl.core.model import Signature
from compressctl.core.objects import as_objects, joined
from compressctl.core.source import MetricSpec
from compressctl.core.tasks import Decode
from compressctl.graph.torch_outputs import named_outputs
from compressctl.training.data import tensor_batches

_BATCH = 256

Ask = Callable[[tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True)
class Answers:
    """outputs: (n, ...) of the split's samples in order, the first output; (n,) objects where samples differ in shape. labels: likewise, None
    where there are none.

    names: of all of the network's outputs.
    """

    outputs: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]

    def score(self, metric: MetricSpec | None, decode: Decode | None) -> float | None:
        """None where nothing can be scored, as where results are decoded of several outputs: the first one alone is known here."""
        if metric is None or self.labels is None or (decode is not None and len(self.names) > 1):
            return None
        if decode is None:
            return None if self.outputs.dtype == object else metric.score(self.outputs, self.labels)
        results = [result for part in _arrays(self.outputs) for result in decode({self.names[0]: part})]
        return metric.score(as_objects(results), self.labels)


def answers(ask: Ask, split: Split, signature: Signature) -> Answers | None:
    """What a network says to a whole split; None when it is empty."""
    outputs, labels = [], []
    for batch in tensor_batches(split, signature, _BATCH):
        outputs.append(ask(batch.inputs).float().cpu().numpy())
        labels.append(None if batch.labels is None else batch.labels.numpy())
    if not outputs:
        return None
    known = [part for part in labels if part is not None]
    names = tuple(spec.name for spec in signature.outputs)
    return Answers(joined(outputs), joined(known) if len(known) == len(labels) else None, names)


def asking(network: nn.Module) -> Ask:
    """A torch network as something to ask: in eval mode, without gradients."""

    def ask(inputs: tuple[Tensor, ...]) -> Tensor:
        network.eval()
        with torch.no_grad():
            return next(iter(named_outputs(network(*inputs)).values()))

    return ask


def agreement(first: Answers, second: Answers, class_axis: int) -> float:
    """Percent of decisions that are alike. A single output decides by its sign."""
    chosen = [
        np.concatenate([_decisions(part, class_axis).reshape(-1) for part in _arrays(given.outputs)])
        for given in (first, second)
    ]
    return float(np.mean(chosen[0] == chosen[1]) * 100)


def _arrays(outputs: np.ndarray) -> Sequence[np.ndarray]:
    """With samples along axis 0: all at once, or each by itself where they differ in shape."""
    return [outputs] if outputs.dtype != object else [sample[None] for sample in outputs]


def _decisions(outputs: np.ndarray, class_axis: int) -> np.ndarray:
    return np.asarray(outputs > 0 if outputs.shape[class_axis] == 1 else outputs.argmax(axis=class_axis))
