"""Datasets as everything else sees them: four splits that never overlap, read in batches of numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from compressctl.core.model import Signature, TensorSpec

SplitName = Literal["train", "validation", "calibration", "test"]


class ShapesDifferError(UsageError):
    """Samples that cannot share a batch, since their shapes differ."""


@dataclass(frozen=True)
class Batch:
    """inputs: by name, numbers, samples along axis 0. labels: (n,) integers for classes, floats otherwise.

    indices: (n,) int64, the samples' positions in the dataset as it is stored, so that results can name an example.
    groups: (n,) names of the group that each sample belongs to, where the data tells; for fairness alone, no model sees it.
    constants: names of inputs that every sample shares, given as the model takes them (a sampling rate, a table).
    is_request: one recorded call of the model, one index, every array as the model takes it, whatever axis counts samples.
    expected: outputs that somebody else recorded for these inputs, by name.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    indices: np.ndarray
    groups: np.ndarray | None = None
    constants: frozenset[str] = frozenset()
    is_request: bool = False
    expected: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Tuples:
    """Samples in a row that belong together. size: how many, 2 for pairs, 1 where each stands alone.

    score_range: of tuples whose labels are scores, the score of a cosine of 0 and that of a cosine of 1.
    """

    size: int = 1
    score_range: tuple[float, float] = (0.0, 1.0)

    def whole(self, samples: int) -> int:
        """As many of these samples as make whole tuples; those of one tuple at least."""
        return max(1, samples // self.size) * self.size

    def too_small(self, batch_size: int, *, is_ranked: bool, processes: int = 1) -> tuple[str, str] | None:
        """Why batches of so many samples teach nothing, and what to do; None where they do. is_ranked: by the order of the tuples' scores."""
        if batch_size < self.size:
            return (
                f"batch_size: {batch_size} is less than a whole tuple: {self.size} samples in a row of the data belong together",
                f"choose a multiple of {self.size}, as 32; pairs count as two samples",
            )
        least = 2 * self.size * processes
        if not is_ranked or self.whole(batch_size) >= least:
            return None
        shared = f" for each of {processes} processes" if processes > 1 else ""
        return (
            f"batch_size: {batch_size} holds a single pair{shared}, and loss cosent ranks the pairs of a batch by their scores",
            f"choose {least} or more, as {max(32, least)}; loss cosine looks at each pair alone",
        )


ALONE = Tuples()


class Split(Protocol):
    """Samples that are read lazily. Reading twice gives the same samples in the same order.

    A split whose samples belong together in pairs or longer tuples has an attribute `tuples` of the type Tuples beside this; see `tuples_of`.
    """

    def __len__(self) -> int: ...

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Batches of `size` samples, the last one possibly smaller; shuffled only when a seed is given.

        Shuffled are whole tuples, and every batch then holds whole ones: `size` is rounded by `Tuples.whole`. In the split's own order
        batches have the size that was asked for, as a model of a fixed batch needs it.
        """
        ...


class Dataset(Protocol):
    """classes: their names for classification, in the order of the labels; None otherwise."""

    @property
    def classes(self) -> Sequence[str] | None: ...

    def split(self, name: SplitName) -> Split: ...


@dataclass(frozen=True)
class WrappedDataset:
    """Another dataset, whose splits a subclass changes."""

    own: Dataset

    @property
    def classes(self) -> Sequence[str] | None:
        return self.own.classes

    @property
    def is_random(self) -> bool:
        """Whether its samples are no data; see sources/random_inputs.py."""
        return bool(getattr(self.own, "is_random", False))

    def split(self, name: SplitName) -> Split:
        return self.own.split(name)


def first_filled(data: Dataset | None, *names: SplitName) -> Split | None:
    """The first of these splits that has samples, None where none has. The others are not looked at."""
    splits = (data.split(name) for name in names) if data is not None else iter(())
    return next((split for split in splits if len(split)), None)


def tuples_of(split: Split) -> Tuples:
    """How the split's samples belong together; each stands alone where it says nothing."""
    found: Tuples = getattr(split, "tuples", ALONE)
    return found


def parts_of(
    positions: np.ndarray, size: int, shuffle_seed: int | None, tuples: Tuples = ALONE
) -> Iterator[np.ndarray]:
    """`size` positions after `size` others, the last ones possibly fewer; shuffled only when a seed is given, then by whole tuples.

    Raises UsageError where the positions are no whole tuples.
    """
    import numpy as np

    if size < 1:
        raise UsageError(f"a batch of {size} samples cannot be read; the batch size is 1 or more")
    if len(positions) % tuples.size:
        raise UsageError(f"{len(positions)} samples are no whole tuples of {tuples.size}")
    if shuffle_seed is None:
        order, step = positions, size
    else:
        rows = positions.reshape(-1, tuples.size)
        order, step = np.random.default_rng(shuffle_seed).permutation(rows).reshape(-1), tuples.whole(size)
    for start in range(0, len(order), step):
        yield order[start : start + step].astype(np.int64)


def bind(batch: Batch, signature: Signature) -> dict[str, np.ndarray]:
    """The batch's arrays as the model takes them: under its input names, samples along each input's own batch axis.

    By name where the names agree; a single array goes to a single input whatever the names. Numbers get the model's width.
    An input without a batch axis takes a constant, or the only sample's array. Raises UsageError where that does not fit.
    """
    from compressctl.core.streaming import constants, recognised

    given = {name: array for name, array in constants(signature).items() if name not in batch.inputs}
    specs = [spec for spec in signature.inputs if spec.name not in given]
    wanted = [spec.name for spec in specs]
    if set(wanted) <= set(batch.inputs):
        return {**{spec.name: _placed(batch, spec.name, spec) for spec in specs}, **given}
    if len(wanted) == 1 and len(batch.inputs) == 1:
        return {wanted[0]: _placed(batch, next(iter(batch.inputs)), specs[0]), **given}
    missing = [name for name in wanted if name not in batch.inputs]
    states = {name: fed for name, fed in recognised(signature).items() if name in missing}
    told = f"; a state that an output feeds: `model: {{states: {_mapping(states)}}}`" if states else ""
    raise UsageError(
        f"the model takes {', '.join(wanted)} but the data gives {', '.join(batch.inputs)}",
        hint=f"name the data's arrays like the model's inputs; {', '.join(missing)} is missing{told}",
    )


def _mapping(pairs: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{key}: {value}' for key, value in pairs.items())}}}"


def _placed(batch: Batch, name: str, spec: TensorSpec) -> np.ndarray:
    import numpy as np

    array = as_wide(batch.inputs[name], spec.dtype)
    if spec.batch_axis is not None and array.ndim <= spec.batch_axis:
        shape = f"an array of the shape {list(array.shape)}" if array.ndim else "a single number"
        raise UsageError(
            f"input {name} of the model has samples along axis {spec.batch_axis}, the data gives {shape} for it",
            hint="give it an array with a value for each sample",
        )
    if batch.is_request or name in batch.constants:
        return array
    if spec.batch_axis is not None:
        return array if spec.batch_axis == 0 else np.moveaxis(array, 0, spec.batch_axis)
    if array.ndim == len(spec.shape) + 1 and len(array) == 1:
        only: np.ndarray = array[0]
        return only
    raise UsageError(
        f"input {name} of the model has no batch axis ({list(spec.shape)}), the data gives {list(array.shape)} for it",
        hint=f"say which axis counts samples, as in `model: {{batch_axes: {{{name}: 0}}}}`, or give one array for all samples",
    )


def as_wide(array: np.ndarray, dtype: str) -> np.ndarray:
    """Floats in the model's float type and integers in its integer type; anything else is left for the model to refuse."""
    import numpy as np

    if array.dtype.name == dtype:
        return array
    if dtype in ("float16", "float32", "float64") and array.dtype.kind == "f":
        return array.astype(dtype)
    if dtype in ("int16", "int32", "int64") and array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        return array.astype(dtype) if limits.min <= array.min() and array.max() <= limits.max else array
    return array
