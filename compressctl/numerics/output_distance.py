"""How far a network's outputs are from another's."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax


def kl_divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    """Mean over rows of KL(softmax(wanted) || softmax(found)), in nats, computed in float64.

    Scores of classes lie along the last axis. Rows that are probabilities already, as behind a Softmax, are taken as such. A single score a row
    is one class against none: a probability where all lie between 0 and 1, else a logit.
    """
    first, second = _log_probabilities(wanted), _log_probabilities(found)
    return float(np.mean(np.sum(np.exp(first) * (first - second), axis=-1)))


def squared_distance(wanted: np.ndarray, found: np.ndarray) -> float:
    """Mean of the squared difference, computed in float64."""
    return float(np.mean(np.square(np.asarray(found, np.float64) - wanted)))


def relative_squared_distance(wanted: np.ndarray, found: np.ndarray) -> float:
    """Sum of the squared difference over that of what is wanted around its mean, computed in float64; of a constant the mean difference."""
    first, second = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    spread = float(np.sum(np.square(first - np.mean(first)))) if first.size else 0.0
    lost = float(np.sum(np.square(second - first)))
    return lost / spread if spread > 0 else lost / max(first.size, 1)


def _log_probabilities(scores: np.ndarray) -> np.ndarray:
    values = np.asarray(scores, np.float64)
    if values.ndim == 0 or values.shape[-1] == 1:
        one = values.reshape(-1, 1)
        is_share = bool(one.size) and one.min() >= 0 and one.max() <= 1
        values = np.concatenate([one, 1 - one if is_share else np.zeros_like(one)], axis=-1)
    if values.size and values.min() >= 0 and np.allclose(values.sum(axis=-1), 1, atol=1e-3):
        return np.log(np.maximum(values, 1e-30))
    return np.asarray(log_softmax(values, axis=-1))
