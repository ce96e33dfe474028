"""A split's batches as torch tensors, so that training reads the data that runtimes read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressctl.core.data import Batch, Split, bind
from compressctl.core.model import Signature

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorBatch:
    """inputs: by the model's input names, in the signature's order. labels: int64 for classes, float32 otherwise."""

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor | None


def tensor_batches(
    split: Split,
    signature: Signature,
    size: int,
    *,
    device: torch.device | str = "cpu",
    shuffle_seed: int | None = None,
) -> Iterator[TensorBatch]:
    """The split's batches on a device, bound to the model's inputs. Raises UsageError when the names do not fit."""
    for batch in split.batches(size, shuffle_seed=shuffle_seed):
        yield as_tensors(batch, signature, device)


def as_tensors(batch: Batch, signature: Signature, device: torch.device | str = "cpu") -> TensorBatch:
    """One batch; the arrays are copied, so that training may change the tensors."""
    import torch

    def move(array: object) -> torch.Tensor:
        return torch.tensor(array, device=device)

    labels = None if batch.labels is None else move(batch.labels)
    if labels is not None:
        labels = labels.float() if labels.is_floating_point() else labels.long()
    return TensorBatch({name: move(array) for name, array in bind(batch, signature).items()}, labels)
