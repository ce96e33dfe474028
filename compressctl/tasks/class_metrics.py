"""Scores of classes against labels beyond accuracy, in percent. A well-kept library computes them; see each function's."""

from __future__ import annotations

import math

import numpy as np

from compressctl.tasks.metrics import classes_of
from compressctl.tasks.positions import counts_by_class


def macro_f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 of the classes that occur. outputs: (n, ...), see `classes_of`. labels: (n,) integers (scikit-learn's f1_score)."""
    from sklearn.metrics import f1_score

    return 100 * float(f1_score(_filled(labels).reshape(-1), classes_of(outputs), average="macro", zero_division=0))


def f1_by_class(outputs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """F1 of each class that has a label."""
    from sklearn.metrics import f1_score

    wanted = labels.reshape(-1)
    classes = np.unique(wanted)
    found = f1_score(wanted, classes_of(outputs), labels=classes, average=None, zero_division=0)
    return {int(number): 100 * float(value) for number, value in zip(classes, found, strict=True)}


def balanced_accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that have labels of the share that is classified right (scikit-learn's balanced_accuracy_score)."""
    return float(np.mean(list(recall_by_class(outputs, labels).values())))


def recall_by_class(outputs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """The share of each class's samples that is classified right."""
    counts = counts_by_class(classes_of(outputs), _filled(labels).reshape(-1))
    return {int(number): 100 * both / labelled for number, (labelled, both, _) in sorted(counts.items()) if labelled}


def roc_auc(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: of one score against two classes; of several, the mean over the classes of each against the others.

    outputs: (n,), (n, 1) or (n, classes) scores. labels: (n,) integers. NaN where all labels are equal (scikit-learn's roc_auc_score).
    """
    scores, wanted = np.asarray(outputs, np.float64).reshape(len(outputs), -1), _filled(labels).reshape(-1)
    if np.isnan(scores).any() or len(np.unique(wanted)) < 2:
        return math.nan
    if scores.shape[1] == 1:
        return _auc(wanted > 0, scores[:, 0])
    if scores.shape[1] == 2:
        return _auc(wanted == 1, scores[:, 1] - scores[:, 0])
    return float(np.mean([_auc(wanted == number, scores[:, number]) for number in np.unique(wanted)]))


def _auc(wanted: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return 100 * float(roc_auc_score(wanted, scores))


def mean_average_precision(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the labels that occur of average precision. outputs, labels: (n, classes), labels of 0 and 1. NaN where none occurs."""
    found = average_precision_by_class(outputs, labels)
    return float(np.mean(list(found.values()))) if found else math.nan


def average_precision_by_class(outputs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Average precision of each label that occurs (scikit-learn's average_precision_score)."""
    from sklearn.metrics import average_precision_score

    scores, wanted = _several(outputs, labels)
    if np.isnan(scores).any():
        return {}
    return {
        int(number): 100 * float(average_precision_score(wanted[:, number], scores[:, number]))
        for number in np.flatnonzero(wanted.any(axis=0))
    }


def micro_f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """F1 over all samples and labels together; a label is given where its score is above 0.5 for probabilities, above 0 for logits."""
    scores, wanted = _several(outputs, labels)
    given = scores > (0.5 if scores.size and scores.min() >= 0 and scores.max() <= 1 else 0)
    total = int(given.sum() + wanted.sum())
    return 200 * float((given & wanted).sum()) / total if total else math.nan


def _several(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, wanted = np.asarray(outputs, np.float64).reshape(len(outputs), -1), _filled(labels).reshape(len(labels), -1)
    if scores.shape != wanted.shape:
        raise ValueError(f"the model gives {list(scores.shape)} scores and the labels are {list(wanted.shape)}")
    if not np.isin(wanted, (0, 1)).all():
        raise ValueError("labels are 0 or 1 for each class")
    return scores, wanted.astype(bool)


def _filled(labels: np.ndarray) -> np.ndarray:
    if not len(labels):
        raise ValueError("there are no samples to score")
    return np.asarray(labels)
