"""Statistics of two classifiers on the same samples: exact tests, and calibration."""

from __future__ import annotations

import numpy as np
import scipy.special


def mcnemar(right_to_wrong: int, wrong_to_right: int) -> float:
    """The exact two-sided p-value that flips in the two directions are equally likely; 1.0 without flips.

    Source: McNemar 1947; the exact form is a binomial test of the smaller count against a fair coin.
    """
    flips = right_to_wrong + wrong_to_right
    if flips == 0:
        return 1.0
    return min(1.0, 2.0 * float(scipy.special.bdtr(min(right_to_wrong, wrong_to_right), flips, 0.5)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values adjusted for having made several tests: (n,) float64, in the order given.

    Source: Holm 1979, a sequentially rejective procedure: the smallest counts n times, the next n - 1 times, and so on.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    weighted = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(weighted), 1.0)
    return adjusted


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, classes) probabilities, float64. Rows that already are probabilities come back as they are."""
    logits = np.asarray(logits, dtype=np.float64)
    if logits.size and logits.min() >= 0 and np.allclose(logits.sum(axis=-1), 1.0, atol=1e-3):
        return logits
    return np.asarray(scipy.special.softmax(logits, axis=-1))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, 0 to 1: how far confidence is from accuracy, over bins of equal width.

    probabilities: (n, classes). Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.
    """
    confidence = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    filled = counts > 0
    accuracy = np.bincount(which, weights=right, minlength=bins)[filled] / counts[filled]
    mean_confidence = np.bincount(which, weights=confidence, minlength=bins)[filled] / counts[filled]
    return float(np.sum(counts[filled] / len(labels) * np.abs(accuracy - mean_confidence)))


def mean_divergence(before: np.ndarray, after: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of after from before over samples, in nats. Both (n, classes) probabilities."""
    smallest = np.finfo(np.float64).tiny
    ratio = np.log(np.maximum(before, smallest)) - np.log(np.maximum(after, smallest))
    return float(np.mean(np.sum(before * ratio, axis=-1)))
