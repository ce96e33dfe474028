"""Labels as everything after a source expects them: int64 for classes, float32 for values."""

from __future__ import annotations

import numpy as np

from compressctl.core.errors import UsageError
from compressctl.numerics.next_token import IGNORED_LABEL


def as_labels(stored: np.ndarray, place: str) -> np.ndarray:
    """int64 from integers, float32 from floats, objects from text; a column (n, 1) becomes (n,).

    place: where they come from, for the message. Raises UsageError for anything else and for negative classes; where a sample
    has several labels, -100 marks those that do not count.
    """
    labels = stored[:, 0] if stored.ndim == 2 and stored.shape[1] == 1 else stored
    if labels.dtype.kind == "U" and labels.ndim == 1:
        return labels.astype(object)
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise UsageError(f"{place} holds labels that are not finite numbers")
        return labels.astype(np.float32)
    if labels.dtype.kind not in "biu" or labels.ndim == 0:
        raise UsageError(f"{place} does not hold labels: they are integers or floats (it is {stored.dtype})")
    classes = labels[labels != IGNORED_LABEL] if labels.ndim > 1 and labels.dtype.kind == "i" else labels
    if classes.size and classes.min() < 0:
        raise UsageError(f"{place} holds a negative class, {classes.min()}; classes count from 0")
    return labels.astype(np.int64)
