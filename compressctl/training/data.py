"""A split as tensors, batch by batch, in the order of a network's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressctl.core.data import ALONE, Batch, Split, Tuples, bind, tuples_of
from compressctl.core.model import Signature
from compressctl.core.objects import as_objects
from compressctl.core.undeclared import Undeclared


class LabelList(list[Any]):
    """Labels that are no array of numbers, one for each sample: texts, and boxes as tensors of their own."""

    def __getitem__(self, at: Any) -> Any:
        return LabelList(super().__getitem__(at)) if isinstance(at, slice) else super().__getitem__(at)

    def to(self, device: torch.device) -> LabelList:
        return LabelList(label.to(device) if isinstance(label, Tensor) else label for label in self)

    def numpy(self) -> np.ndarray:
        """(n,) objects."""
        return as_objects([label.cpu().numpy() if isinstance(label, Tensor) else label for label in self])


Labels = Tensor | LabelList


class HeadLabels(dict[str, Labels]):
    """Labels by head, each (n, ...): sliced and moved together."""

    def at(self, start: int, end: int) -> HeadLabels:
        return HeadLabels({name: tensor[start:end] for name, tensor in self.items()})

    def to(self, device: torch.device) -> HeadLabels:
        return HeadLabels({name: tensor.to(device) for name, tensor in self.items()})


@dataclass(frozen=True)
class TensorBatch:
    """inputs: in the order of the signature. labels: (n,) int64 classes, (n, classes) shares, or floats; a list where they are texts or
    boxes; None without. heads: where several outputs have labels, instead.

    indices: (n,) int64, the samples' positions in the dataset; None where inputs stand for no sample of it.
    tuples: how samples in a row belong together; the batch holds whole tuples.
    """

    inputs: tuple[Tensor, ...]
    labels: Labels | None
    indices: Tensor | None = None
    heads: HeadLabels | None = None
    tuples: Tuples = ALONE

    def __len__(self) -> int:
        return len(self.inputs[0])

    def part(self, start: int, end: int) -> TensorBatch:
        """The samples from start up to, but not with, end."""
        inputs = tuple(tensor[start:end] for tensor in self.inputs)
        labels = None if self.labels is None else self.labels[start:end]
        indices = None if self.indices is None else self.indices[start:end]
        heads = None if self.heads is None else self.heads.at(start, end)
        return TensorBatch(inputs, labels, indices, heads, self.tuples)

    def to(self, device: torch.device, *, is_channels_last: bool = False) -> TensorBatch:
        """The same values on a device; is_channels_last: images stored the way that convolutions read fastest."""
        inputs = tuple(_placed(tensor, device, is_channels_last) for tensor in self.inputs)
        labels = None if self.labels is None else self.labels.to(device)
        heads = None if self.heads is None else self.heads.to(device)
        return TensorBatch(inputs, labels, self.indices, heads, self.tuples)


def tensor_batches(
    split: Split, signature: Signature, size: int, *, shuffle_seed: int | None = None
) -> Iterator[TensorBatch]:
    """Batches of `size` samples, rounded to whole tuples where samples belong together, in any order."""
    tuples = tuples_of(split)
    for batch in split.batches(tuples.whole(size), shuffle_seed=shuffle_seed):
        arrays = bind(batch, signature)
        inputs = tuple(torch.as_tensor(arrays[spec.name]) for spec in signature.inputs)
        yield TensorBatch(inputs, _labels(batch), torch.as_tensor(batch.indices), _heads(batch), tuples)


def _labels(batch: Batch) -> Labels | None:
    """Labels that the stage may not read stay what they are: who looks at inputs alone never touches them."""
    undeclared: Any = batch.labels
    if batch.labels is None or isinstance(undeclared, Undeclared):
        return undeclared  # type: ignore[no-any-return]
    return None if batch.labels.dtype.names else _tensors(batch.labels)


def _tensors(labels: np.ndarray) -> Labels:
    if labels.dtype != object:
        return torch.as_tensor(labels)
    return LabelList(torch.as_tensor(label) if isinstance(label, np.ndarray) else label for label in labels)


def _heads(batch: Batch) -> HeadLabels | None:
    labels: Any = batch.labels
    if labels is None or isinstance(labels, Undeclared) or not labels.dtype.names:
        return None
    return HeadLabels({name: _tensors(labels[name].copy()) for name in labels.dtype.names})


def _placed(tensor: Tensor, device: torch.device, is_channels_last: bool) -> Tensor:
    placed = tensor.to(device)
    return placed.contiguous(memory_format=torch.channels_last) if is_channels_last and placed.ndim == 4 else placed
