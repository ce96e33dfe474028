"""Predictions of an artifact through its runtime, their score, and what changed against the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.core.backend import Session
from compressctl.core.data import Split, SplitName, bind
from compressctl.core.errors import UsageError
from compressctl.core.events import Events
from compressctl.core.model import Model, Signature
from compressctl.core.registry import load
from compressctl.core.source import MetricSpec
from compressctl.core.target import Target
from compressctl.measure.metrics import classes_of
from compressctl.measure.results import Change, Score

SMALLEST_CLASS = 10
"""Samples below which one class's accuracy says nothing: a single flip would move it by more than ten points."""


@dataclass(frozen=True)
class Predictions:
    """outputs: (n, ...) the model's first output. labels: (n, ...), None where the data has none. indices: (n,) positions
    in the dataset. groups: (n,) names, None where the data has none.
    """

    outputs: np.ndarray
    labels: np.ndarray | None
    indices: np.ndarray
    groups: np.ndarray | None = None


_BATCH = 64


def scoring_batch(model: Model, target: Target) -> int:
    """How many samples to score at once. A plan with dynamic ranges takes them from the whole batch, padding included, so that
    such a model is scored in the batches that it will be served in."""
    return target.batch if model.quant is not None and model.quant.dynamic else _BATCH


def predict(
    session: Session, split: Split, signature: Signature, batch_size: int, events: Events | None = None
) -> Predictions:
    """Run a whole split. Raises UsageError when it is empty.

    A model of a fixed batch size gets the last, smaller batch filled up with copies, whose outputs are dropped.
    """
    fixed = signature.inputs[0].shape[0] if signature.inputs[0].shape else batch_size
    size = fixed if isinstance(fixed, int) else batch_size
    outputs, labels, indices, groups = [], [], [], []
    done = 0
    for batch in split.batches(size):
        count = len(batch.indices)
        inputs = bind(batch, signature)
        if isinstance(fixed, int):
            inputs = {name: _filled(array, fixed) for name, array in inputs.items()}
        outputs.append(session.run(inputs)[signature.outputs[0].name][:count])
        labels.append(batch.labels)
        indices.append(batch.indices)
        groups.append(batch.groups)
        done += len(batch.indices)
        if events is not None:
            events.progress("scoring", done, len(split))
    if not outputs:
        raise UsageError("the split to score is empty", hint="set data.test and data.validation above zero")
    return Predictions(np.concatenate(outputs), _joined(labels), np.concatenate(indices), _joined(groups))


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)]) if len(array) < size else array


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if len(present) == len(parts) else None


def score(predictions: Predictions, metric: MetricSpec, classes: Sequence[str] | None, split: SplitName) -> Score:
    """Raises UsageError when the data has no labels."""
    value = float(load(metric.implementation)(predictions.outputs, _labels(predictions)))
    per_class = None
    if metric.name == "accuracy" and classes is not None:
        per_class = _per_class(predictions, classes)
    return Score(metric.name, value, len(predictions.outputs), split, per_class)


def _labels(predictions: Predictions) -> np.ndarray:
    if predictions.labels is None:
        raise UsageError("the data has no labels, so nothing can be scored", hint="remove the gate and the budget")
    return predictions.labels


def change(
    baseline: Predictions, compressed: Predictions, metric: MetricSpec, classes: Sequence[str] | None, split: SplitName
) -> Change:
    """Sample by sample, the two in the same order."""
    before, after = (score(found, metric, classes, split) for found in (baseline, compressed))
    drop = metric.drop(before.value, after.value)
    if metric.name != "accuracy":
        return Change(drop)
    was_right, is_right = (_classes_of(found) == _labels(found) for found in (baseline, compressed))
    worst = None
    if before.per_class and after.per_class:
        counts = dict(zip(classes or (), np.bincount(_labels(baseline), minlength=len(classes or ())), strict=False))
        losses = {
            name: before.per_class[name] - after.per_class[name]
            for name in before.per_class
            if counts[name] >= SMALLEST_CLASS
        }
        name = max(losses, key=lambda candidate: losses[candidate], default=None)
        worst = None if name is None else (name, losses[name])
    return Change(
        drop=drop,
        worst_class=worst,
        right_to_wrong=int(np.sum(was_right & ~is_right)),
        wrong_to_right=int(np.sum(~was_right & is_right)),
        disagreements=int(np.sum(_classes_of(baseline) != _classes_of(compressed))),
    )


def _per_class(predictions: Predictions, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy in percent of every class that occurs."""
    labels = _labels(predictions)
    right = _classes_of(predictions) == labels
    return {
        name: float(right[labels == label].mean() * 100)
        for label, name in enumerate(classes)
        if np.any(labels == label)
    }


def _classes_of(predictions: Predictions) -> np.ndarray:
    return classes_of(predictions.outputs)
