"""What changed for single samples and classes between two classifiers, although the score may not show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressctl.measure.groups import change, group_changes
from compressctl.measure.results import Behaviour, ClassChange
from compressctl.measure.score import Predictions
from compressctl.numerics.paired import calibration_error, holm, mcnemar, mean_divergence, softmax
from compressctl.tasks.metrics import classes_of

_NAMED_SAMPLES = 200


def behaviour(baseline: Predictions, compressed: Predictions, classes: Sequence[str]) -> Behaviour | None:
    """Sample by sample, the two in the same order.

    A single output is the logit of the second of two classes. None for outputs that are not one row of scores per sample or
    labels that are not one class, and where an output is not finite.
    """
    if baseline.labels is None or baseline.labels.size != len(baseline.outputs):
        return None
    old, new = _scores(baseline.outputs), _scores(compressed.outputs)
    if old is None or new is None or not np.isfinite(old).all() or not np.isfinite(new).all():
        return None
    labels = baseline.labels.reshape(-1)
    before, after = classes_of(old), classes_of(new)
    broken, mended = (before == labels) & (after != labels), (before != labels) & (after == labels)
    changed = before != after
    soft_before, soft_after = softmax(old), softmax(new)
    return Behaviour(
        churn=float(changed.mean()),
        negative_flip_rate=float(broken.mean()),
        p_value=mcnemar(int(broken.sum()), int(mended.sum())),
        calibration_error_before=calibration_error(soft_before, labels),
        calibration_error_after=calibration_error(soft_after, labels),
        divergence=mean_divergence(soft_before, soft_after),
        classes=_classes(labels, before, after, classes),
        changed=tuple(int(index) for index in baseline.indices[changed][:_NAMED_SAMPLES]),
        groups=None if baseline.groups is None else group_changes(before == labels, after == labels, baseline.groups),
    )


def _scores(outputs: np.ndarray) -> np.ndarray | None:
    """(n, classes). Of a single logit z the two classes' are 0 and z, whose softmax is the sigmoid of z."""
    rows = outputs[:, None] if outputs.ndim == 1 else outputs
    if rows.ndim != 2 or rows.shape[1] == 0:
        return None
    return rows if rows.shape[1] > 1 else np.hstack([np.zeros_like(rows), rows])


def _classes(
    labels: np.ndarray, before: np.ndarray, after: np.ndarray, classes: Sequence[str]
) -> tuple[ClassChange, ...]:
    """Every class that occurs, the one that lost most first."""
    found = [
        change(name, before[labels == label] == label, after[labels == label] == label)
        for label, name in enumerate(classes)
        if label in labels
    ]
    adjusted = holm(np.array([mcnemar(entry.right_to_wrong, entry.wrong_to_right) for entry in found]))
    corrected = [
        ClassChange(**entry.model_dump(), p_value=float(p_value))
        for entry, p_value in zip(found, adjusted, strict=True)
    ]
    return tuple(sorted(corrected, key=lambda entry: entry.after - entry.before))
