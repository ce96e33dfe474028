"""A split that is read once and then kept in memory, so that images are not decoded in every epoch.

Only samples that lie in one array are kept: recorded requests and samples of different shapes are read again each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from compressctl.core.data import Batch, Dataset, Split, SplitName

LARGEST_BYTES = 2 * 1024**3
_READ_AT_ONCE = 256
_READ_OFTEN: tuple[SplitName, ...] = ("train", "validation")


def hold(split: Split, largest_bytes: int = LARGEST_BYTES) -> Split:
    """The same samples in the same order, from memory where they fit and make one array; the split itself when held already."""
    if isinstance(split, HeldSplit) or len(split) == 0:
        return split
    return HeldSplit(split, largest_bytes)


class HeldDataset:
    """A dataset whose train and validation splits are read once."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._held: dict[SplitName, Split] = {}

    @property
    def classes(self) -> Sequence[str] | None:
        return self._dataset.classes

    @property
    def fingerprint(self) -> str:
        return self._dataset.fingerprint

    def split(self, name: SplitName) -> Split:
        if name not in _READ_OFTEN:
            return self._dataset.split(name)
        if name not in self._held:
            self._held[name] = hold(self._dataset.split(name))
        return self._held[name]


class HeldSplit:
    """Reads everything when a batch is first asked for. Batches of the whole split, then, or of what cannot be held."""

    def __init__(self, split: Split, largest_bytes: int) -> None:
        self._split = split
        self._largest_bytes = largest_bytes
        self._samples: Batch | None = None
        self._cannot_hold = False

    def __len__(self) -> int:
        return len(self._split)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        samples = self._read()
        if samples is None or size < 1:
            yield from self._split.batches(size, shuffle_seed=shuffle_seed)
            return
        order = np.arange(len(self))
        if shuffle_seed is not None:
            order = np.random.default_rng(shuffle_seed).permutation(order)
        for start in range(0, len(order), size):
            yield _chosen(samples, order[start : start + size])

    def _read(self) -> Batch | None:
        if self._samples is None and not self._cannot_hold:
            first = next(self._split.batches(min(_READ_AT_ONCE, len(self))))
            if _bytes(first) / len(first.indices) * len(self) > self._largest_bytes:
                self._cannot_hold = True
                return None
            batches = list(self._split.batches(_READ_AT_ONCE))
            if _make_one_array(batches):
                self._samples = _joined(batches)
            else:
                self._cannot_hold = True
        return self._samples


def _bytes(batch: Batch) -> int:
    arrays = [*batch.inputs.values(), *([] if batch.labels is None else [batch.labels])]
    return sum(array.nbytes for array in arrays)


def _make_one_array(batches: Sequence[Batch]) -> bool:
    """Whether samples lie along axis 0 of all arrays, in one shape, beside the same constants."""
    if any(batch.is_request or batch.expected is not None for batch in batches):
        return False
    first = batches[0]
    return all(
        batch.constants == first.constants
        and batch.inputs.keys() == first.inputs.keys()
        and all(_is_alike(first, batch, name) for name in first.inputs)
        for batch in batches
    )


def _is_alike(one: Batch, other: Batch, name: str) -> bool:
    if name in one.constants:
        return np.array_equal(one.inputs[name], other.inputs[name])
    return one.inputs[name].shape[1:] == other.inputs[name].shape[1:]


def _joined(batches: Sequence[Batch]) -> Batch:
    first = batches[0]
    inputs = {
        name: array if name in first.constants else np.concatenate([batch.inputs[name] for batch in batches])
        for name, array in first.inputs.items()
    }
    labels = None if batches[0].labels is None else np.concatenate([_present(batch.labels) for batch in batches])
    groups = None if batches[0].groups is None else np.concatenate([_present(batch.groups) for batch in batches])
    return Batch(inputs, labels, np.concatenate([batch.indices for batch in batches]), groups, first.constants)


def _present(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


def _chosen(samples: Batch, positions: np.ndarray) -> Batch:
    def pick(array: np.ndarray) -> np.ndarray:
        picked: np.ndarray = array[positions]
        return picked

    inputs: Mapping[str, np.ndarray] = {
        name: array if name in samples.constants else pick(array) for name, array in samples.inputs.items()
    }
    return Batch(
        inputs,
        None if samples.labels is None else pick(samples.labels),
        pick(samples.indices),
        None if samples.groups is None else pick(samples.groups),
        samples.constants,
    )
