"""Classes of pixels, tokens or frames against the original's, place by place."""

from __future__ import annotations

import numpy as np

from compressctl.core.objects import as_objects
from compressctl.core.tasks import Tally


def counts_by_class(found: np.ndarray, wanted: np.ndarray) -> dict[int, tuple[int, int, int]]:
    """Of each class that occurs: in how many places it is wanted, is both, is found. Arrays of one shape, of whole numbers of any size."""
    counts: dict[int, list[int]] = {}
    for column, places in enumerate((wanted, wanted[found == wanted], found)):
        for number, count in zip(*np.unique(places, return_counts=True), strict=True):
            counts.setdefault(int(number), [0, 0, 0])[column] += int(count)
    return {number: (row[0], row[1], row[2]) for number, row in counts.items()}


class Positions:
    """unit: what a place is called."""

    rule = "the same class"

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def as_labels(self, results: np.ndarray) -> np.ndarray:
        return as_objects([row.astype(np.int64) for row in results])

    def tally(self, before: np.ndarray, after: np.ndarray) -> Tally:
        """Raises ValueError where a result is of no classes."""
        total = Tally(0, 0, 0, 0, {})
        for old, new in zip(before, after, strict=True):
            _check_classes(old)
            if old.shape != new.shape:
                total += Tally(old.size, 0, 0, 0, {})
                continue
            classes = counts_by_class(new, old)
            kept = sum(both for _, both, _ in classes.values())
            by_class = {number: (was, both, now - both) for number, (was, both, now) in classes.items()}
            total += Tally(old.size, kept, 0, int(kept == old.size), by_class)
        return total


def _check_classes(result: np.ndarray) -> None:
    """Scores in place of classes would all be cut to the class below them."""
    if result.dtype.kind == "f" and (broken := result[result % 1 != 0]).size:
        raise ValueError(f"{broken.flat[0]:g} is no class: classes are whole numbers")
