"""Datasets as everything else sees them: four splits that never overlap, read in batches of numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from compressctl.core.model import Signature

SplitName = Literal["train", "validation", "calibration", "test"]


@dataclass(frozen=True)
class Batch:
    """inputs: by name, float32 or integer, samples along axis 0. labels: (n,) integers for classes, floats otherwise.

    indices: (n,) int64, the samples' positions in the dataset as it is stored, so that results can name an example.
    groups: (n,) names of the group that each sample belongs to, where the data tells; for fairness alone, no model sees it.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    indices: np.ndarray
    groups: np.ndarray | None = None


class Split(Protocol):
    """Samples that are read lazily. Reading twice gives the same samples in the same order."""

    def __len__(self) -> int: ...

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Batches of `size` samples, the last one possibly smaller; shuffled only when a seed is given."""
        ...


class Dataset(Protocol):
    """classes: their names for classification, in the order of the labels; None otherwise.

    fingerprint: a hash of the content and of everything that decides the splits; part of cache keys.
    """

    @property
    def classes(self) -> Sequence[str] | None: ...

    @property
    def fingerprint(self) -> str: ...

    def split(self, name: SplitName) -> Split: ...


def bind(batch: Batch, signature: Signature) -> dict[str, np.ndarray]:
    """The batch's arrays under the model's input names.

    By name where the names agree; a single array goes to a single input whatever the names. Floats get the model's width.
    Raises UsageError otherwise.
    """
    wanted = [spec.name for spec in signature.inputs]
    if set(wanted) <= set(batch.inputs):
        return {spec.name: _as_wide(batch.inputs[spec.name], spec.dtype) for spec in signature.inputs}
    if len(wanted) == 1 and len(batch.inputs) == 1:
        return {wanted[0]: _as_wide(next(iter(batch.inputs.values())), signature.inputs[0].dtype)}
    raise UsageError(
        f"the model takes {', '.join(wanted)} but the data gives {', '.join(batch.inputs)}",
        hint="name the data's arrays like the model's inputs",
    )


def _as_wide(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(dtype) if dtype == "float16" and array.dtype.kind == "f" else array
