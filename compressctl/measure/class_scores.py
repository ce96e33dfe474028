"""Which outputs look like scores of classes, read from their values and names."""

from __future__ import annotations

import re

import numpy as np

_SUM_TOLERANCE = 0.01
_SCORES = re.compile(r"logit|prob|score|softmax|class|label|emission|(^|[_./])(cls|pred)", re.IGNORECASE)


def class_axis(name: str, values: np.ndarray) -> int | None:
    """The axis along which an output looks like scores of classes: shares that add up to 1, or their logarithms, along any
    axis but the first; or, where the output is called so (logits, scores, ...), the last axis, and axis 1 of a map.
    """
    if values.ndim < 2 or values.size == 0 or not np.isfinite(values).all():
        return None
    order: list[int] = [values.ndim - 1, *range(1, values.ndim - 1)]
    for axis in order:
        if values.shape[axis] > 1 and (adds_up(values, axis) or adds_up(np.exp(np.minimum(values, 1.0)), axis)):
            return axis
    if _SCORES.search(name):
        axis = 1 if values.ndim >= 4 else int(values.ndim) - 1
        return axis if values.shape[axis] > 1 else None
    return None


def adds_up(values: np.ndarray, axis: int) -> bool:
    """Whether they are shares of 1 along the axis."""
    if values.size == 0 or values.min() < 0:
        return False
    return bool(np.all(np.abs(values.astype(np.float64).sum(axis=axis) - 1) < _SUM_TOLERANCE))


def is_probability(values: np.ndarray) -> bool:
    """One number per sample, all between 0 and 1 and not all the same."""
    is_single = values.ndim == 1 or all(size == 1 for size in values.shape[1:])
    return bool(is_single and values.size > 1 and values.min() >= 0 and values.max() <= 1 and np.ptp(values) > 0)
