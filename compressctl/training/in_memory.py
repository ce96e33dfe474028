"""A split that is read once and then kept in memory, so that images are not decoded in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from compressctl.core.data import Batch, Split, SplitName, Tuples, WrappedDataset, parts_of, tuples_of
from compressctl.core.feeds import take

LARGEST_BYTES = 2 * 1024**3
_READ_AT_ONCE = 256
_READ_OFTEN: tuple[SplitName, ...] = ("train", "validation")


def hold(split: Split, largest_bytes: int = LARGEST_BYTES) -> Split:
    """The same samples in the same order, from memory; the split itself when it is larger than that, or held already."""
    if isinstance(split, HeldSplit) or len(split) == 0:
        return split
    return HeldSplit(split, largest_bytes)


@dataclass(frozen=True)
class HeldDataset(WrappedDataset):
    """A dataset whose train and validation splits are read once."""

    _held: dict[SplitName, Split] = field(default_factory=dict, repr=False)

    def split(self, name: SplitName) -> Split:
        if name not in _READ_OFTEN:
            return self.own.split(name)
        if name not in self._held:
            self._held[name] = hold(self.own.split(name))
        return self._held[name]


class HeldSplit:
    """Reads everything when a batch is first asked for. Batches of the whole split, then, or of what cannot be held."""

    def __init__(self, split: Split, largest_bytes: int) -> None:
        self._split = split
        self._largest_bytes = largest_bytes
        self._samples: Batch | None = None
        self._is_passed_on = False

    @property
    def tuples(self) -> Tuples:
        return tuples_of(self._split)

    def __len__(self) -> int:
        return len(self._split)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        samples = self._read()
        if samples is None:
            yield from self._split.batches(size, shuffle_seed=shuffle_seed)
            return
        for chosen in parts_of(np.arange(len(self)), size, shuffle_seed, self.tuples):
            yield take(samples, chosen)

    def _read(self) -> Batch | None:
        """None where the samples are too large, of several shapes, or recorded calls."""
        if self._samples is None and not self._is_passed_on:
            first = next(self._split.batches(min(_READ_AT_ONCE, len(self))))
            if first.is_request or _bytes(first) / len(first.indices) * len(self) > self._largest_bytes:
                self._is_passed_on = True
                return None
            read = list(self._split.batches(_READ_AT_ONCE))
            if len({_sample_shapes(batch) for batch in read}) == 1:
                self._samples = _joined(read)
            else:
                self._is_passed_on = True
        return self._samples


def _bytes(batch: Batch) -> int:
    arrays = [*batch.inputs.values(), *([] if batch.labels is None else [batch.labels])]
    return sum(array.nbytes for array in arrays)


def _joined(batches: Sequence[Batch]) -> Batch:
    constants = batches[0].constants
    inputs = {
        name: array if name in constants else np.concatenate([batch.inputs[name] for batch in batches])
        for name, array in batches[0].inputs.items()
    }
    labels = None if batches[0].labels is None else np.concatenate([_present(batch.labels) for batch in batches])
    groups = None if batches[0].groups is None else np.concatenate([_present(batch.groups) for batch in batches])
    return Batch(inputs, labels, np.concatenate([batch.indices for batch in batches]), groups, constants)


def _present(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


def _sample_shapes(batch: Batch) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape[1:] for name, array in batch.inputs.items() if name not in batch.constants)
