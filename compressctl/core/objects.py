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
