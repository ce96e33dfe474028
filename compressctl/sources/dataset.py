"""A dataset made of a function that reads samples by position, and of the positions that each split holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.core.data import ALONE, Batch, ShapesDifferError, Split, SplitName, Tuples, parts_of
from compressctl.sources.splits import Splits

Read = Callable[[np.ndarray], tuple[Mapping[str, np.ndarray], np.ndarray | None]]
"""Inputs by name and labels of the samples at these positions, in that order; constants as they are.

Raises ShapesDifferError where the samples cannot share a batch: then they are read tuple by tuple, one by one where each stands alone.
"""

ReadGroups = Callable[[np.ndarray], np.ndarray]
"""Names of the groups of the samples at these positions."""


@dataclass(frozen=True)
class SplitDataset:
    classes: Sequence[str] | None
    splits: Splits
    read: Read
    groups: ReadGroups | None = None
    constants: frozenset[str] = frozenset()
    tuples: Tuples = ALONE

    def split(self, name: SplitName) -> Split:
        return PositionSplit(self.splits.of(name), self.read, self.groups, self.constants, self.tuples)


@dataclass(frozen=True)
class Part:
    """Samples that are stored together. inputs: reads the positions, counted within this part. constants: what samples share."""

    count: int
    inputs: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    labels: np.ndarray | None
    constants: frozenset[str] = frozenset()


def read_parts(train: Part, test: Part | None) -> Read:
    """Positions count the samples to split first, then those of the dataset's own test split."""

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
        # A split lies wholly in one of the two parts, and so does every batch.
        part, within = train, positions
        if test is not None and len(positions) and positions[0] >= train.count:
            part, within = test, positions - train.count
        return part.inputs(within), None if part.labels is None else part.labels[within]

    return read


@dataclass(frozen=True)
class PositionSplit:
    positions: np.ndarray
    read: Read
    groups: ReadGroups | None = None
    constants: frozenset[str] = frozenset()
    tuples: Tuples = ALONE

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        at_least = 1 if shuffle_seed is None else self.tuples.size
        for chosen in parts_of(self.positions, size, shuffle_seed, self.tuples):
            try:
                yield self._batch(chosen)
            except ShapesDifferError:
                if len(chosen) <= at_least:
                    raise
                for start in range(0, len(chosen), at_least):
                    yield self._batch(chosen[start : start + at_least])

    def _batch(self, chosen: np.ndarray) -> Batch:
        inputs, labels = self.read(chosen)
        groups = None if self.groups is None else self.groups(chosen)
        return Batch(inputs, labels, chosen, groups, self.constants)
