"""What a model's outputs are worth against the labels. Pure functions on arrays, in float64."""

from __future__ import annotations

import math

import numpy as np


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Percent of samples that are classified right. outputs: (n, ...), see `classes_of`. labels: (n,) integers."""
    _refuse_empty(labels)
    return 100.0 * float(np.mean(classes_of(outputs) == labels.reshape(-1)))


def r2(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Coefficient of determination, over all targets together: 1 is perfect, 0 is predicting each target's mean.

    outputs, labels: the same number of elements per sample. NaN when the labels do not vary, since nothing is explained.
    """
    predicted, wanted = _paired(outputs, labels)
    total = float(np.sum((wanted - wanted.mean(axis=0)) ** 2))
    return 1.0 - float(np.sum((wanted - predicted) ** 2)) / total if total > 0 else math.nan


def rmse(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Root mean squared error over all elements. outputs, labels: the same number of elements per sample."""
    predicted, wanted = _paired(outputs, labels)
    return math.sqrt(float(np.mean((wanted - predicted) ** 2)))


def spearman(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation, in percent, of cosine similarities with the labels of pairs; ties share their mean rank.

    outputs: (2n, size) embeddings, rows 2i and 2i + 1 a pair. labels: (2n,), a pair's label on both its rows. NaN when one of the
    two does not vary. Raises ValueError for an odd number of rows, or rows of one pair with different labels.
    """
    from scipy.stats import spearmanr

    _refuse_empty(labels)
    rows = np.asarray(outputs, dtype=np.float64).reshape(len(outputs), -1)
    wanted = np.asarray(labels, dtype=np.float64).reshape(-1)
    if len(rows) % 2 or len(rows) != len(wanted) or not np.array_equal(wanted[::2], wanted[1::2]):
        raise ValueError("spearman scores pairs: two samples in a row with the same label")
    lengths = np.linalg.norm(rows, axis=1)
    similarity = np.sum(rows[::2] * rows[1::2], axis=1) / np.maximum(lengths[::2] * lengths[1::2], 1e-30)
    if np.ptp(wanted) == 0 or not np.ptp(similarity) > 0:
        return math.nan
    return 100.0 * float(spearmanr(similarity, wanted[::2])[0])


def classes_of(outputs: np.ndarray) -> np.ndarray:
    """(n,) int64, the class that each sample is given: the highest of several outputs, the sign of a single one.

    A row with NaN is given -1, which is no class: a model that computes NaN is never right by accident.
    """
    rows = np.asarray(outputs).reshape(len(outputs), -1)
    chosen = np.argmax(rows, axis=1) if rows.shape[1] > 1 else (rows[:, 0] > 0).astype(np.int64)
    if np.issubdtype(rows.dtype, np.floating):
        chosen = np.where(np.isnan(rows).any(axis=1), -1, chosen)
    return chosen.astype(np.int64)


def _paired(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _refuse_empty(labels)
    predicted = np.asarray(outputs, dtype=np.float64).reshape(len(outputs), -1)
    wanted = np.asarray(labels, dtype=np.float64).reshape(len(labels), -1)
    if predicted.shape != wanted.shape:
        raise ValueError(f"the model gives {predicted.shape} values and the labels hold {wanted.shape}")
    return predicted, wanted


def _refuse_empty(labels: np.ndarray) -> None:
    if len(labels) == 0:
        raise ValueError("there are no samples to score")
