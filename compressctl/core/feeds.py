"""A split as calls of a model: arrays under its input names, as it takes them, equal shapes together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from compressctl.core.data import Batch, bind

if TYPE_CHECKING:
    from compressctl.core.data import Split
    from compressctl.core.model import Signature, TensorSpec


_OUTPUT_BYTES = 64 << 20
"""About what one call's outputs may take: of a language model with a large vocabulary, one text has as many."""


@dataclass(frozen=True)
class Feed:
    """inputs: one call's arrays. batch: the samples that they were made of. count: samples, without copies that fill up.

    A model that fixes its batch gets a smaller batch filled up with copies of the last sample.
    """

    inputs: Mapping[str, np.ndarray]
    batch: Batch
    count: int


def feeds(split: Split, signature: Signature, size: int) -> Iterator[Feed]:
    """The split in calls of at most `size` samples, or of as many as the model takes, and as outputs take memory for. Order stays.

    Samples of different shapes never share a call, and recorded calls stay as they were recorded: rounding may depend on the batch.
    Raises UsageError when the data's arrays do not fit the model's inputs.
    """
    fixed = signature.fixed_batch
    step = fixed or size
    for batch in split.batches(step):
        for part in _parts(batch, step):
            inputs, count = bind(part, signature), len(part.indices)
            if fixed is not None and count < fixed and not part.is_request:
                axes = {spec.name: spec.batch_axis for spec in signature.inputs}
                inputs = {name: _filled(array, axes[name], fixed) for name, array in inputs.items()}
            most = fixed or samples_at_once(signature, inputs, count)
            if part.is_request or count <= most:
                yield Feed(inputs, part, count)
            else:
                for small in _parts(part, most):
                    yield Feed(bind(small, signature), small, len(small.indices))


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


def zeros(specs: Sequence[TensorSpec], samples: int) -> dict[str, np.ndarray]:
    """A call of zeros: samples along the first axis, 1 along every other open one."""
    shapes = {
        spec.name: [samples, *(1 if isinstance(size, str) else size for size in spec.shape[1:])] for spec in specs
    }
    return {spec.name: np.zeros(shapes[spec.name], dtype=spec.dtype) for spec in specs}


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch that is larger than was asked for (a dataset of one's own may give any), in parts."""
    count = len(batch.indices)
    if batch.is_request or count <= size:
        yield batch
        return
    for start in range(0, count, size):
        yield take(batch, slice(start, start + size))


def samples_at_once(signature: Signature, inputs: Mapping[str, np.ndarray], count: int) -> int:
    """How many samples like these have outputs that fit into memory together, at least one. inputs: a call of `count` samples.

    Output axes that no input has count as one.
    """
    sizes: dict[int | str, int] = {
        dim: size
        for spec in signature.inputs
        if spec.name in inputs
        for dim, size in zip(spec.shape, np.shape(inputs[spec.name]), strict=False)
    }
    shapes = [[sizes.get(dim, dim if isinstance(dim, int) else 1) for dim in spec.shape] for spec in signature.outputs]
    taken = sum(4 * math.prod(shape) for shape in shapes)
    return max(1, _OUTPUT_BYTES * count // max(taken, 1))


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
