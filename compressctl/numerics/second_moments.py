"""The second moments of a layer's inputs, as more samples than were seen are expected to show them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_COLUMNS = 512
"""Of a product of all columns with all, at a time: it is as large as the sum that it is added to."""

_FIRST_SAMPLES, _FIRST_ROWS = 32, 256
"""Vectors wait until there are so many, or of so many samples, to tell columns' sizes."""

_FEW = 8
"""Samples whose correlations tell little: these are taken to be chance by at least this many, over the square of how many samples there are.
Not so of variances: a column of a thousand times the usual size is that in every sample."""

_TINY = 1e-30
"""Columns that are usually smaller are taken to be of size 1: float32 has no numbers to divide them by."""

_LEAST_SIZE = 0.1
"""Of the usual column's, that every column is taken to have at least while shares are told."""


class SecondMoments:
    """The mean of x x^T over a layer's input vectors x, of one group of inputs or of several apart, shrunk against few samples.

    What is fitted to a few samples (a low rank, a rounding whose errors later weights make good) follows directions that only these have, and loses
    more in all others than nothing fitted would. So correlations shrink towards 0 and variances towards their median, each by the share that the
    samples themselves tell: how much they differ from one another, beside how much there is. A sample is one observation, however many places or
    tokens it has, since these are alike. The mean stays as it was seen.

    Sources: Schäfer and Strimmer 2005, A shrinkage approach to large-scale covariance matrix estimation, table 2 (target D); Opgen-Rhein and
    Strimmer 2007, Accurate ranking of differentially expressed genes by a distribution-free shrinkage approach (variances); Chan, Golub and
    LeVeque 1979, Updating formulae and a pairwise algorithm for computing sample variances (the mean that moves).
    """

    def __init__(self, size: int, groups: int = 1) -> None:
        self._products = np.zeros((groups, size, size))
        self._mean = np.zeros((groups, 1, size))
        self._fourth = np.zeros((groups, size))
        self._between = np.zeros(groups)
        self._size: np.ndarray | None = None
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._rows = self._samples = 0

    def add(self, vectors: np.ndarray, samples: np.ndarray | None = None) -> None:
        """vectors: (n, size) or (groups, n, size), multiplied in their own type, summed in float64. samples: (n,), which of this batch's samples each
        is of, rising; None where each is of its own."""
        taken = vectors.reshape(len(self._products), -1, vectors.shape[-1])
        count = taken.shape[1]
        if count == 0:
            return
        ends = np.arange(1, count) if samples is None else np.flatnonzero(np.diff(samples)) + 1
        if self._size is not None:
            self._add(taken, ends)
            return
        self._waiting.append((taken, ends))
        held = sum(len(others) + 1 for _, others in self._waiting)
        if held >= _FIRST_SAMPLES or sum(other.shape[1] for other, _ in self._waiting) >= _FIRST_ROWS:
            self._begin()

    def _begin(self) -> None:
        """With columns' sizes, so that none outweighs others when shares are told."""
        waiting, self._waiting = self._waiting, []
        rows = sum(taken.shape[1] for taken, _ in waiting)
        squares = sum(np.square(taken, dtype=np.float64).sum(axis=1, keepdims=True) for taken, _ in waiting)
        size = np.sqrt(squares / max(rows, 1))
        usual = np.median(size, axis=2, keepdims=True)
        usual = np.where(usual > 0, usual, size.mean(axis=2, keepdims=True))
        self._size = np.maximum(size, np.where(usual > _TINY, _LEAST_SIZE * usual, 1.0))
        for taken, ends in waiting:
            self._add(taken, ends)

    def _add(self, vectors: np.ndarray, ends: np.ndarray) -> None:
        """ends: where the second and later samples begin."""
        assert self._size is not None
        taken = vectors / self._size.astype(vectors.dtype)
        count = taken.shape[1]
        moved = (taken.mean(axis=1, keepdims=True, dtype=np.float64) - self._mean) * (count / (self._rows + count))
        for products, step in zip(self._products, moved[:, 0], strict=True):
            _add_outer(products, step, self._rows)
        self._mean += moved
        taken -= self._mean.astype(taken.dtype)
        for start in range(0, taken.shape[2], _COLUMNS):
            part = taken[..., start : start + _COLUMNS].transpose(0, 2, 1)
            self._products[:, start : start + _COLUMNS] += part @ taken
        energies = np.add.reduceat(np.square(taken, dtype=np.float64), [0, *ends], axis=1)
        self._fourth += np.square(energies).sum(axis=1)
        if len(ends) + 1 == count:
            self._between += np.square(energies.sum(axis=2)).sum(axis=1)
        else:
            for part in np.split(taken, ends, axis=1):
                turned = part.transpose(0, 2, 1)
                product = part @ turned if part.shape[1] <= part.shape[2] else turned @ part
                self._between += np.square(product, dtype=np.float64).sum(axis=(1, 2))
        self._rows += count
        self._samples += len(ends) + 1

    def matrices(self) -> np.ndarray:
        """(groups, size, size) float64, symmetric; zeros where no vector was seen. Made where the sums lie: once, and nothing is added afterwards."""
        if self._waiting:
            self._begin()
        if self._rows:
            for group, products in enumerate(self._products):
                self._shrink(products, group)
        return self._products

    def _shrink(self, found: np.ndarray, group: int) -> None:
        assert self._size is not None
        size, mean = self._size[group, 0], self._mean[group, 0]
        between, fourth = self._between[group] / self._rows**2, self._fourth[group] / self._rows**2
        found /= self._rows
        seen = np.diagonal(found).copy()
        off_diagonal = float(np.vdot(found, found) - np.vdot(seen, seen))
        least = min(1.0, _FEW / self._samples**2)
        correlated = 1 - max(least, self._chance(float(between - fourth.sum()), off_diagonal, off_diagonal))
        variances = seen * np.square(size)
        middle = float(np.median(variances)) or float(variances.mean())
        fourths = fourth * size**4
        share = self._chance(
            float(fourths.sum()), float(np.square(variances).sum()), float(np.square(variances - middle).sum())
        )
        shrunk = (1 - share) * variances + share * middle
        stretch = np.sqrt(np.divide(shrunk, seen, out=np.zeros_like(seen), where=seen > 0))
        found *= stretch[:, None] * correlated
        found *= stretch
        found[np.diag_indices(len(found))] = shrunk
        _add_outer(found, mean * size, 1)

    def _chance(self, of_samples: float, of_mean: float, differs: float) -> float:
        """How much of a mean's distance from its target is chance, 0 to 1. of_samples: the sum over samples of the squares of their parts of the mean.
        of_mean: of its own squares. differs: of those of its distance."""
        if self._samples < 2 or differs <= 0:
            return 0.0
        chance = (self._samples * of_samples - of_mean) / (self._samples - 1)
        return min(1.0, max(0.0, chance / differs))


def _add_outer(matrix: np.ndarray, vector: np.ndarray, times: float) -> None:
    for start in range(0, len(vector), _COLUMNS):
        matrix[start : start + _COLUMNS] += times * np.outer(vector[start : start + _COLUMNS], vector)


class Picked:
    """A choice among the vectors of a batch, as `Outline.rows` asks for it, that tells afterwards which sample each is of.

    choose: gets how many vectors there are, gives the places of those that are wanted, rising. batch: samples.
    """

    def __init__(self, choose: Callable[[int], np.ndarray], batch: int) -> None:
        self._choose, self._batch = choose, batch
        self.samples = np.zeros(0, np.int64)

    def __call__(self, count: int) -> np.ndarray:
        found = self._choose(count)
        self.samples = samples_of(found, count, self._batch)
        return found


def samples_of(picked: np.ndarray, count: int, batch: int) -> np.ndarray:
    """Which sample of a batch each vector is of. picked: (n,), places among the `count` vectors of `batch` samples, in order."""
    found: np.ndarray = picked * max(batch, 1) // max(count, 1)
    return found


def evenly(total: int, most: int | None) -> np.ndarray:
    """Indices into `total` things, at most `most` of them, evenly spaced."""
    if most is None or total <= most:
        return np.arange(total)
    return np.linspace(0, total - 1, most).astype(np.int64)
