"""A dataset made of a function that reads samples by position, and of the positions that each split holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from compressctl.core.data import Batch, ShapesDifferError, Split, SplitName
from compressctl.core.errors import UsageError
from compressctl.sources.splits import Splits

Read = Callable[[np.ndarray], tuple[Mapping[str, np.ndarray], np.ndarray | None]]
"""Inputs by name and labels of the samples at these positions, in that order; constants as they are.

Raises ShapesDifferError where the samples cannot share a batch: then they are read one by one.
"""

ReadGroups = Callable[[np.ndarray], np.ndarray]
"""Names of the groups of the samples at these positions."""


@dataclass(frozen=True)
class SplitDataset:
    """identify: computes the fingerprint, called when it is first asked for."""

    classes: Sequence[str] | None
    splits: Splits
    read: Read
    identify: Callable[[], str] = field(repr=False)
    groups: ReadGroups | None = None
    constants: frozenset[str] = frozenset()

    @cached_property
    def fingerprint(self) -> str:
        return self.identify()

    def split(self, name: SplitName) -> Split:
        return PositionSplit(self.splits.of(name), self.read, self.groups, self.constants)


@dataclass(frozen=True)
class PositionSplit:
    positions: np.ndarray
    read: Read
    groups: ReadGroups | None = None
    constants: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        if size < 1:
            raise UsageError(f"a batch of {size} samples cannot be read; the batch size is 1 or more")
        order = self.positions
        if shuffle_seed is not None:
            order = np.random.default_rng(shuffle_seed).permutation(order)
        for start in range(0, len(order), size):
            chosen = order[start : start + size].astype(np.int64)
            try:
                yield self._batch(chosen)
            except ShapesDifferError:
                if len(chosen) == 1:
                    raise
                for position in chosen:
                    yield self._batch(position[None])

    def _batch(self, chosen: np.ndarray) -> Batch:
        inputs, labels = self.read(chosen)
        groups = None if self.groups is None else self.groups(chosen)
        return Batch(inputs, labels, chosen, groups, self.constants)
