"""Stored tables that a formula gives: positions as sines and cosines, geometric series, masks. They are no parameters."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from compressctl.graph.tensors import to_array

_ROWS = 16
"""Fewest rows, or numbers of a series, that are taken for evidence."""

_COLUMNS = 64
"""Columns that are looked at: enough to tell, and fast for a table of a million rows."""

_TOLERANCE = 0.01
"""Relative: what float16 and bfloat16 lose, several times over."""

_MASKED = -1e4
"""What masks hold where nothing may be seen is at most this: -10,000 in old exports, -infinity and the type's least in others."""


def is_computed_table(tensor: onnx.TensorProto) -> bool:
    """Whether a float constant is one of those that exporters store although nothing in it was learned.

    - Sines and cosines of positions (rotary and sinusoidal embeddings): along the rows every column obeys
      v[p + 1] + v[p - 1] = 2 cos(w) v[p] for a frequency w of its own, which holds for every equidistantly sampled sinusoid
      of whatever phase and amplitude, and which learned numbers do not.
    - The frequencies of these, and slopes of ALiBi: a geometric series. Positions: an arithmetic one.
    - Masks: nothing but 0 and numbers of at most -10,000, or the lower triangle of ones.

    False where the numbers are not at hand, and for fewer than 16 rows or numbers.
    """
    if tensor.data_type not in _FLOATS:
        return False
    shape = [size for size in tensor.dims if size != 1]
    if len(shape) not in (1, 2) or shape[0] < _ROWS or 0 in shape:
        return False
    try:
        values = to_array(tensor).reshape(shape)
    except Exception:
        # Fewer numbers than its shape says; whoever loads the model says so.
        return False
    if not _may_be_one(values):
        return False
    if len(shape) == 1:
        return _is_series(values[: 4 * _COLUMNS].astype(np.float64))
    return _is_mask(values) or _is_sinusoids(values)


_FLOATS = frozenset(
    (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE),
)


def _may_be_one(values: np.ndarray) -> bool:
    """Whether the first numbers leave it open; learned numbers hardly ever do, and they are most of what is looked at."""
    column = values if values.ndim == 1 else values[: 4 * _ROWS, 0]
    one, two, three = column[:3].astype(np.float64).tolist()
    if values.ndim == 1:
        steps = [(two - one, three - two)]
        if min(one, two, three) > 0:
            steps.append((math.log(two / one), math.log(three / two)))
        return any(abs(second - step) <= 3 * _TOLERANCE * abs(step) for step, second in steps)
    if one in (0, 1) or one <= _MASKED:
        return True
    # Some frequency must do for each three numbers in a row.
    first = column.astype(np.float64).tolist()
    slack, low, high = 2 * _TOLERANCE * max(map(abs, first)), -2.1, 2.1
    for before, middle, after in zip(first, first[1:], first[2:], strict=False):
        if middle == 0:
            continue
        ends = (before + after - slack) / middle, (before + after + slack) / middle
        low, high = max(low, min(ends)), min(high, max(ends))
        if low > high:
            return False
    return True


def _is_series(values: np.ndarray) -> bool:
    if not np.isfinite(values).all() or values[0] == values[-1]:
        return False
    steps = np.diff(values)
    if np.abs(steps - steps.mean()).max() <= _TOLERANCE * abs(steps.mean()):
        return True
    if (values <= 0).any():
        return False
    ratios = np.diff(np.log(values))
    return bool(np.abs(ratios - ratios.mean()).max() <= _TOLERANCE * abs(ratios.mean()))


def _is_mask(values: np.ndarray) -> bool:
    corner = np.asarray(values[:_COLUMNS, :_COLUMNS], np.float64)
    if corner.shape == values.shape or _could_be_mask(corner):
        whole = np.asarray(values, np.float64)
        return _could_be_mask(whole) and len(np.unique(whole)) == 2
    return False


def _could_be_mask(values: np.ndarray) -> bool:
    if np.isnan(values).any():
        return False
    hidden = (values <= _MASKED) | (values == 0)
    return bool(hidden.all() or (values == np.tri(*values.shape)).all())


def _is_sinusoids(values: np.ndarray) -> bool:
    columns = np.asarray(values[: 4 * _ROWS, :_COLUMNS], np.float64)
    if not np.isfinite(columns).all():
        return False
    middle, around = columns[1:-1], columns[2:] + columns[:-2]
    weight = (middle**2).sum(axis=0)
    cosine = np.divide((middle * around).sum(axis=0), 2 * weight, out=np.ones_like(weight), where=weight > 0)
    if not (np.abs(cosine) <= 1 + _TOLERANCE).all() or not (np.abs(cosine) < math.cos(0.2)).any():
        return False
    left = np.abs(around - 2 * cosine * middle).max(axis=0)
    return bool((left <= 2 * _TOLERANCE * np.abs(columns).max(axis=0)).all())
