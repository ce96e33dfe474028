"""Calls that a function makes of one of its models on another dataset's samples, as data of that model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from compressctl.core.data import Batch, Split, SplitName, WrappedDataset, parts_of

Calls = Callable[[Split], Sequence[Mapping[str, np.ndarray]]]


def scored_samples(split: Split) -> Split:
    """What results are read for: the split's own samples, or those on which a function makes the calls that it holds."""
    return split.samples if isinstance(split, CalledSplit) else split


@dataclass(frozen=True)
class CalledDataset(WrappedDataset):
    """calls: what the function calls the model with on a split. Each split's are made when they are first asked for."""

    calls: Calls
    _splits: dict[SplitName, CalledSplit] = field(default_factory=dict, repr=False)

    def split(self, name: SplitName) -> CalledSplit:
        if name not in self._splits:
            self._splits[name] = CalledSplit(self.own.split(name), self.calls)
        return self._splits[name]


@dataclass
class CalledSplit:
    """samples: what the function is given, and end results are scored on."""

    samples: Split
    calls: Calls

    @cached_property
    def _calls(self) -> Sequence[Mapping[str, np.ndarray]]:
        return self.calls(self.samples) if len(self.samples) else ()

    def __len__(self) -> int:
        return len(self._calls)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """One call each, whatever the size."""
        for chosen in parts_of(np.arange(len(self)), 1, shuffle_seed):
            yield Batch(self._calls[int(chosen[0])], None, chosen, is_request=True)
