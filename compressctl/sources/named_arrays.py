"""Arrays under a model's input names, as samples: which axis of each counts them, and what all samples share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compressctl.core.errors import UsageError


@dataclass(frozen=True)
class NamedArrays:
    """arrays: samples along axis 0, constants as they are. constants: names of those that every sample shares."""

    count: int
    arrays: Mapping[str, np.ndarray]
    constants: frozenset[str]

    def at(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of some samples; floats in single precision."""
        return {
            name: _single(array if name in self.constants else array[positions]) for name, array in self.arrays.items()
        }


def as_samples(
    arrays: Mapping[str, np.ndarray], declared: Mapping[str, int | None], place: str, count: int | None = None
) -> NamedArrays:
    """Move every array's batch axis to the front.

    declared: by name, the axis that counts samples, None for what all samples share. count: of samples, where labels tell.
    What is not declared: a single number is shared; the axis of as many entries as there are samples counts them.
    Raises UsageError for names that are none, and where an array has no such axis, or several.
    """
    unknown = sorted(set(declared) - set(arrays))
    if unknown:
        raise UsageError(f"{place}: batch_axes names {unknown[0]!r}", hint=f"the inputs are {', '.join(arrays)}")
    size = _count(arrays, declared, place) if count is None else count
    moved, constants = {}, set()
    for name, array in arrays.items():
        axis = declared[name] if name in declared else _axis(name, array, size, place)
        if axis is None:
            constants.add(name)
            moved[name] = array
            continue
        if axis >= array.ndim or array.shape[axis] != size:
            raise UsageError(
                f"{place}: input {name!r} is {list(array.shape)}, which has no {size} samples along axis {axis}",
                hint="every input has as many samples as the others, or is shared by all: `batch_axes: {NAME: null}`",
            )
        moved[name] = np.moveaxis(array, axis, 0)
    return NamedArrays(size, moved, frozenset(constants))


def _count(arrays: Mapping[str, np.ndarray], declared: Mapping[str, int | None], place: str) -> int:
    said = {name: axis for name, axis in declared.items() if axis is not None and axis < arrays[name].ndim}
    if said:
        name, axis = next(iter(said.items()))
        return int(arrays[name].shape[axis])
    sizes = Counter(array.shape[0] for name, array in arrays.items() if array.ndim and name not in declared)
    if not sizes:
        raise UsageError(
            f"{place}: no input has an axis that counts samples", hint="give one array per input, samples first"
        )
    most = max(sizes.values())
    # Of equally frequent sizes the largest: tables and states are shorter than data.
    return int(max(size for size, times in sizes.items() if times == most))


def _axis(name: str, array: np.ndarray, count: int, place: str) -> int | None:
    if array.size == 1 and count != 1:
        return None
    if array.ndim == 0:
        return None
    axes = [axis for axis, size in enumerate(array.shape) if size == count]
    if axes and (axes[0] == 0 or len(axes) == 1):
        return axes[0]
    why = "several axes of that size" if axes else "no such axis"
    raise UsageError(
        f"{place}: there are {count} samples and input {name!r} {list(array.shape)} has {why}",
        hint=f"say which axis counts samples, as in `batch_axes: {{{name}: 1}}`, or null where all samples share the array",
    )


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def check_numbers(array: np.ndarray, place: str) -> np.ndarray:
    """The array itself. Raises UsageError when it holds no numbers."""
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{place} is not an array of numbers (it is {array.dtype} {list(array.shape)})")
    return array
