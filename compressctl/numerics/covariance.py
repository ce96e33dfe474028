"""How the inputs of a layer vary together, added up batch by batch."""

from __future__ import annotations

import numpy as np


class Covariance:
    """The sum of x x^T over input vectors.

    matrix: (size, size) float64. rows: how many vectors it is the sum of.
    """

    def __init__(self, size: int) -> None:
        self.matrix = np.zeros((size, size))
        self.rows = 0

    def add(self, vectors: np.ndarray) -> None:
        """vectors: (n, size)."""
        taken = np.asarray(vectors, dtype=np.float64)
        self.matrix += taken.T @ taken
        self.rows += len(taken)


def evenly(total: int, most: int | None) -> np.ndarray:
    """Indices into `total` things, at most `most` of them, evenly spaced."""
    if most is None or total <= most:
        return np.arange(total)
    return np.linspace(0, total - 1, most).astype(np.int64)
