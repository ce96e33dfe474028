"""Arrays, or a whole dataset, that the recipe author's function makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from compressctl.core.data import Dataset, Split, SplitName
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import source_fingerprint, splits_fingerprint
from compressctl.sources.labels import as_labels
from compressctl.sources.named_arrays import NamedArrays, as_samples, check_numbers
from compressctl.sources.params import PythonDatasetParams
from compressctl.sources.python_code import call_factory, code_files
from compressctl.sources.splits import choose

VERSION = 2


def load(params: PythonDatasetParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """A Dataset keeps its own splits; arrays are split here. float64 inputs become float32.

    Raises UsageError when the function returns neither.
    """
    given = call_factory(params.factory, params.args, base)
    identity = splits_fingerprint(fingerprint(params, base), sizes, seed)
    if hasattr(given, "split") and hasattr(given, "classes"):
        return OwnDataset(_checked(given, params), identity)
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        raise UsageError(
            f"{params.factory} returned a {type(given).__name__}",
            hint="return (inputs, labels), (inputs, labels, (test_inputs, test_labels)), or a Dataset",
        )
    first = _part(given[0], given[1], params)
    rest = [_test_part(given[2], first, params)] if len(given) == 3 and given[2] is not None else []
    return SplitDataset(
        classes=params.classes,
        splits=choose(first.inputs.count, sizes, seed, own_test=sum(part.inputs.count for part in rest)),
        read=_Reader(first, rest[0] if rest else None).read,
        identify=lambda: identity,
        constants=first.inputs.constants,
    )


def fingerprint(params: PythonDatasetParams, base: Path) -> str:
    """Covers the function's file and what it imports from its own folder or package, not the files that it reads."""
    return source_fingerprint("python-data", VERSION, params, code_files(params.factory, base))


@dataclass(frozen=True)
class OwnDataset:
    """A dataset from elsewhere under a fingerprint that a plan can compute without running its code."""

    own: Dataset
    fingerprint: str

    @property
    def classes(self) -> Sequence[str] | None:
        return self.own.classes

    def split(self, name: SplitName) -> Split:
        return self.own.split(name)


@dataclass(frozen=True)
class _Part:
    inputs: NamedArrays
    labels: np.ndarray | None


@dataclass(frozen=True)
class _Reader:
    first: _Part
    test: _Part | None

    def read(self, positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
        # Every batch is of one split, and a split lies wholly in one part.
        part, within = self.first, positions
        if self.test is not None and len(positions) and positions[0] >= self.first.inputs.count:
            part, within = self.test, positions - self.first.inputs.count
        return part.inputs.at(within), None if part.labels is None else part.labels[within]


def _checked(given: Any, params: PythonDatasetParams) -> Dataset:
    for name in get_args(SplitName):
        try:
            split = given.split(name)
            len(split)
        except Exception as error:
            raise UsageError(f"{params.factory}: the dataset's {name} split fails: {error}") from error
        if not callable(getattr(split, "batches", None)):
            raise UsageError(f"{params.factory}: the dataset's {name} split has no batches()")
    dataset: Dataset = given
    return dataset


def _part(inputs: Any, labels: Any, params: PythonDatasetParams) -> _Part:
    named = dict(inputs) if isinstance(inputs, Mapping) else {"input": inputs}
    place = params.factory
    arrays = {str(name): check_numbers(np.asarray(value), f"{place}: input {name!r}") for name, value in named.items()}
    numbers = None
    if labels is not None:
        numbers = as_labels(check_numbers(np.asarray(labels), f"{place}: labels"), f"{place}: labels")
    samples = as_samples(arrays, params.batch_axes, place)
    if numbers is not None and len(numbers) != samples.count:
        raise UsageError(f"{place} returned {len(numbers)} labels for {samples.count} samples")
    return _Part(samples, numbers)


def _test_part(given: Any, first: _Part, params: PythonDatasetParams) -> _Part:
    if not isinstance(given, tuple) or len(given) != 2:
        raise UsageError(f"{params.factory}: the third value is not a pair (test_inputs, test_labels)")
    test = _part(given[0], given[1], params)
    alike = (set(test.inputs.arrays), test.inputs.constants) == (set(first.inputs.arrays), first.inputs.constants)
    if not alike or (test.labels is None) != (first.labels is None):
        raise UsageError(f"{params.factory}: the test part does not have the inputs and labels of the first part")
    return test
