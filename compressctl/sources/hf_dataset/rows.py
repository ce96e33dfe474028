"""Rows of several splits under one count of positions, read some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from compressctl.sources.rows import Row

if TYPE_CHECKING:
    from datasets import Dataset

_AT_ONCE = 16
"""Numbers in lists take ten times the memory of those in arrays."""


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """where: the dataset, for messages. parts: splits with their names, one behind the other. positions: of the rows, ascending; all where None."""

    where: str
    parts: Sequence[tuple[str, Dataset]]
    positions: np.ndarray
    _starts: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", np.cumsum([0, *(len(split) for _, split in self.parts)]))

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return Rows(self.where, self.parts, self.positions[index])
        return next(iter(self._read(self.positions[index : index + 1])))

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self.positions), _AT_ONCE):
            yield from self._read(self.positions[start : start + _AT_ONCE])

    def at(self, positions: np.ndarray) -> Rows:
        return Rows(self.where, self.parts, positions)

    def _read(self, positions: np.ndarray) -> Iterator[Row]:
        """A batch lies wholly in one split but at the ends of splits."""
        numbers = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(numbers):
            (name, split), within = self.parts[number], positions[numbers == number] - self._starts[number]
            columns: dict[str, list[Any]] = split[within.tolist()]
            for place, values in zip(within, zip(*columns.values(), strict=True), strict=True):
                yield dict(zip(columns, values, strict=True)), f"{self.where}: {name}[{place}]"
