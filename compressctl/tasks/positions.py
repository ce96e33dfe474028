"""Classes of pixels, tokens or frames against the original's, place by place."""

from __future__ import annotations

import numpy as np

from compressctl.core.objects import as_objects
from compressctl.core.tasks import Tally


class Positions:
    """unit: what a place is called."""

    rule = "the same class"

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def as_labels(self, results: np.ndarray) -> np.ndarray:
        return as_objects([row.astype(np.int64) for row in results])

    def tally(self, before: np.ndarray, after: np.ndarray) -> Tally:
        total, kept, equal = 0, 0, 0
        classes: dict[int, np.ndarray] = {}
        for old, new in zip(before, after, strict=True):
            total += old.size
            if old.shape != new.shape:
                continue
            same = old == new
            kept, equal = kept + int(same.sum()), equal + bool(same.all())
            for number in np.union1d(old, new):
                was, now = old == number, new == number
                counts = np.array([was.sum(), (was & now).sum(), (now & ~was).sum()])
                classes[int(number)] = classes.get(int(number), np.zeros(3, np.int64)) + counts
        by_class = {number: (int(row[0]), int(row[1]), int(row[2])) for number, row in sorted(classes.items())}
        return Tally(total, kept, 0, equal, by_class)
