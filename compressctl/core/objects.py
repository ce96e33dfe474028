"""Decoded results of a split as one array: (n,) objects, each in its task's own form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def as_objects(results: Sequence[Any]) -> np.ndarray:
    """(n,) of dtype object, whatever the results are: arrays of equal shape stay n objects."""
    found = np.empty(len(results), dtype=object)
    for position, result in enumerate(results):
        found[position] = result
    return found


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Samples of several batches along axis 0: one array where their shapes agree, else (n,) objects, each a sample's array.

    Labels of texts that are padded to the longest of each batch differ in length from batch to batch.
    """
    if len({part.shape[1:] for part in parts}) > 1:
        return as_objects([sample for part in parts for sample in part])
    return np.concatenate(parts)
