"""How well teacher and student do on held-out samples, in the form in which they are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from compressctl.training.supervision.teacher_loss import token_mask

_BATCH = 256

Ask = Callable[[tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True)
class Answers:
    """outputs: (n, ...) of the split's samples in order, the first output; (n,) objects where samples differ in shape. labels: likewise, None
    where there are none. counts: which positions are no padding by the input attention_mask, likewise; None where there is none with a value for each.

    names: of all of the network's outputs.
    """

    outputs: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]
    counts: np.ndarray | None = None

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
    outputs, labels, counts = [], [], []
    for batch in tensor_batches(split, signature, _BATCH):
        found = ask(batch.inputs)
        outputs.append(found.float().cpu().numpy())
        labels.append(None if batch.labels is None else batch.labels.numpy())
        mask = token_mask(found, batch, signature)
        counts.append(None if mask is None else mask.cpu().numpy() != 0)
    if not outputs:
        return None
    names = tuple(spec.name for spec in signature.outputs)
    return Answers(joined(outputs), _all(labels), names, _all(counts))


def _all(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    return joined(known) if len(known) == len(parts) else None


def asking(network: nn.Module) -> Ask:
    """A torch network as something to ask: in eval mode, without gradients."""

    def ask(inputs: tuple[Tensor, ...]) -> Tensor:
        network.eval()
        with torch.no_grad():
            return next(iter(named_outputs(network(*inputs)).values()))

    return ask


def agreement(first: Answers, second: Answers, class_axis: int) -> float:
    """Percent of decisions that are alike, of those at positions that are no padding. A single output decides by its sign."""
    chosen = [_flat(_decisions(part, class_axis) for part in _arrays(given.outputs)) for given in (first, second)]
    equal = chosen[0] == chosen[1]
    counts = None if first.counts is None else _flat(_arrays(first.counts))
    if counts is not None and counts.shape == equal.shape and counts.any():
        equal = equal[counts]
    return float(np.mean(equal) * 100)


def _flat(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.reshape(-1) for part in parts])


def _arrays(outputs: np.ndarray) -> Sequence[np.ndarray]:
    """With samples along axis 0: all at once, or each by itself where they differ in shape."""
    return [outputs] if outputs.dtype != object else [sample[None] for sample in outputs]


def _decisions(outputs: np.ndarray, class_axis: int) -> np.ndarray:
    return np.asarray(outputs > 0 if outputs.shape[class_axis] == 1 else outputs.argmax(axis=class_axis))
