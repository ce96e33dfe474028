"""A split as calls of a model: arrays under its input names, as it takes them, equal shapes together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from compressctl.core.data import Batch, bind

if TYPE_CHECKING:
    from compressctl.core.data import Split
    from compressctl.core.model import Signature


@dataclass(frozen=True)
class Feed:
    """inputs: one call's arrays. batch: the samples that they were made of. count: samples, without copies that fill up.

    A model that fixes its batch gets a smaller batch filled up with copies of the last sample.
    """

    inputs: Mapping[str, np.ndarray]
    batch: Batch
    count: int


def feeds(split: Split, signature: Signature, size: int) -> Iterator[Feed]:
    """The split in calls of at most `size` samples, or of as many as the model takes. Order stays.

    Samples of different shapes never share a call. Raises UsageError when the data's arrays do not fit the model's inputs.
    """
    fixed = signature.fixed_batch
    step = fixed or size
    for batch in _of_equal_shapes(split.batches(step), signature, step):
        for part in _parts(batch, step):
            inputs, count = bind(part, signature), len(part.indices)
            if fixed is not None and count < fixed and not part.is_request:
                axes = {spec.name: spec.batch_axis for spec in signature.inputs}
                inputs = {name: _filled(array, axes[name], fixed) for name, array in inputs.items()}
            yield Feed(inputs, part, count)


def whole_feeds(split: Split, signature: Signature, size: int) -> Iterator[Feed]:
    """Without a smaller batch at the end where the model fixes its batch: the copies that would fill it up are no data."""
    fixed = signature.fixed_batch
    for feed in feeds(split, signature, size):
        if fixed is None or feed.count == fixed or feed.batch.is_request:
            yield feed


def first_feeds(split: Split, signature: Signature, samples: int, at_once: int) -> list[Feed]:
    """The first calls of a split that hold `samples` samples together, or the whole split where it has fewer."""
    found: list[Feed] = []
    for feed in whole_feeds(split, signature, min(at_once, samples)):
        found.append(feed)
        if sum(other.count for other in found) >= samples:
            break
    return found


def _of_equal_shapes(batches: Iterator[Batch], signature: Signature, size: int) -> Iterator[Batch]:
    """Batches as they come; recorded requests of one shape that follow each other as one, where every batch axis is known."""
    waiting: list[Batch] = []
    for batch in batches:
        if not batch.is_request or size == 1 or not _can_join(signature):
            yield batch
            continue
        if waiting and (len(waiting) == size or _shapes(waiting[0]) != _shapes(batch)):
            yield from _joined(waiting, signature)
            waiting = []
        waiting.append(batch)
    if waiting:
        yield from _joined(waiting, signature)


def _can_join(signature: Signature) -> bool:
    return signature.fixed_batch is None


def _shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in batch.inputs.items()}


def _joined(requests: Sequence[Batch], signature: Signature) -> Iterator[Batch]:
    """One batch of all, or the requests one by one where they hold more than one sample each or other constants."""
    axes = {spec.name: spec.batch_axis for spec in signature.inputs}
    first = requests[0]
    constant = [name for name in first.inputs if axes.get(name) is None]
    single = all(first.inputs[name].shape[axes[name] or 0] == 1 for name in first.inputs if name not in constant)
    same = all(np.array_equal(first.inputs[name], other.inputs[name]) for name in constant for other in requests[1:])
    if len(requests) == 1 or not single or not same or len(constant) == len(first.inputs):
        yield from requests
        return
    inputs = {
        name: array
        if name in constant
        else np.concatenate([np.moveaxis(other.inputs[name], axes[name] or 0, 0) for other in requests])
        for name, array in first.inputs.items()
    }
    labels = None if first.labels is None else np.concatenate([_labels(other) for other in requests])
    groups = None if first.groups is None else np.concatenate([_groups(other) for other in requests])
    indices = np.concatenate([other.indices for other in requests])
    yield Batch(inputs, labels, indices, groups, frozenset(constant))


def _labels(batch: Batch) -> np.ndarray:
    assert batch.labels is not None
    return batch.labels


def _groups(batch: Batch) -> np.ndarray:
    assert batch.groups is not None
    return batch.groups


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch that is larger than was asked for (a dataset of one's own may give any), in parts."""
    count = len(batch.indices)
    if batch.is_request or count <= size:
        yield batch
        return
    for start in range(0, count, size):
        yield take(batch, slice(start, start + size))


def take(batch: Batch, chosen: slice | np.ndarray) -> Batch:
    """Some of a batch's samples; constants stay."""
    return replace(
        batch,
        inputs={name: array if name in batch.constants else array[chosen] for name, array in batch.inputs.items()},
        labels=None if batch.labels is None else batch.labels[chosen],
        indices=batch.indices[chosen],
        groups=None if batch.groups is None else batch.groups[chosen],
    )


def _filled(array: np.ndarray, axis: int | None, size: int) -> np.ndarray:
    if axis is None or array.shape[axis] >= size:
        return array
    last = np.take(array, [-1], axis=axis)
    return np.concatenate([array, np.repeat(last, size - array.shape[axis], axis=axis)], axis=axis)
