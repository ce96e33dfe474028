"""Arrays, or a whole dataset, that the recipe author's function makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from compressctl.core.data import Dataset, SplitName
from compressctl.core.errors import UsageError
from compressctl.core.failures import refused_in
from compressctl.core.objects import as_objects
from compressctl.core.source import SplitSizes
from compressctl.sources.dataset import Part, SplitDataset, read_parts
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.head_labels import join_heads
from compressctl.sources.labels import as_labels
from compressctl.sources.named_arrays import as_samples, check_numbers
from compressctl.sources.params import PythonDatasetParams
from compressctl.sources.python_code import call_factory, code_files
from compressctl.sources.python_samples import is_samples, of_samples
from compressctl.sources.splits import choose

VERSION = 2


def load(params: PythonDatasetParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """A Dataset keeps its own splits; arrays and samples are split here. float64 inputs become float32.

    Raises UsageError when the function returns none of these.
    """
    given = call_factory(params.factory, params.args, base)
    if hasattr(given, "split") and hasattr(given, "classes") and not isinstance(given, Mapping):
        return _checked(given, params)
    if not isinstance(given, tuple) and is_samples(given):
        return of_samples(given, params, sizes, seed)
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        raise UsageError(
            f"{params.factory} returned a {type(given).__name__}",
            hint="return (inputs, labels), (inputs, labels, (test_inputs, test_labels)), samples one by one, {train: samples, test: samples}, or a Dataset",
        )
    if params.label is not None:
        raise UsageError(
            f"{params.factory} returned a tuple of arrays, whose second one is the labels",
            hint="leave data.label out, or return samples that are dictionaries",
        )
    first, inputs = _part(given[0], given[1], params)
    test = _test_part(given[2], first, inputs, params) if len(given) == 3 and given[2] is not None else None
    return SplitDataset(
        classes=params.classes,
        splits=choose(first.count, sizes, seed, own_test=test.count if test else 0),
        read=read_parts(first, test),
        constants=first.constants,
    )


def fingerprint(params: PythonDatasetParams, base: Path) -> str:
    """Covers the function's file and what it imports from its own folder or package, not the files that it reads."""
    return source_fingerprint("python-data", VERSION, params, code_files(params.factory, base))


def _checked(given: Any, params: PythonDatasetParams) -> Dataset:
    for name in get_args(SplitName):
        try:
            split = given.split(name)
            len(split)
        except Exception as error:
            said = f"{params.factory}: the dataset's {name} split fails"
            raise refused_in(said, error) or UsageError(f"{said}: {error}") from error
        if not callable(getattr(split, "batches", None)):
            raise UsageError(f"{params.factory}: the dataset's {name} split has no batches()")
    dataset: Dataset = given
    return dataset


def _part(inputs: Any, labels: Any, params: PythonDatasetParams) -> tuple[Part, set[str]]:
    """Also the names of its inputs."""
    named = dict(inputs) if isinstance(inputs, Mapping) else {"input": inputs}
    place = params.factory
    arrays = {str(name): check_numbers(np.asarray(value), f"{place}: input {name!r}") for name, value in named.items()}
    numbers = None
    if isinstance(labels, Mapping):
        numbers = join_heads(
            {str(name): _numbers(part, f"{place}: labels of {name}") for name, part in labels.items()}, place
        )
    elif labels is not None:
        numbers = _numbers(labels, f"{place}: labels")
    samples = as_samples(arrays, params.batch_axes, place)
    if numbers is not None and len(numbers) != samples.count:
        raise UsageError(f"{place} returned {len(numbers)} labels for {samples.count} samples")
    return Part(samples.count, samples.at, numbers, samples.constants), set(arrays)


def _numbers(labels: Any, place: str) -> np.ndarray:
    """Labels as numbers or texts; as objects where each sample has an array of its own shape, as boxes."""
    holds_objects = isinstance(labels, np.ndarray) and labels.dtype.kind == "O"
    values = list(labels) if holds_objects or isinstance(labels, list | tuple) else []
    if values and all(isinstance(value, np.ndarray) for value in values):
        whole = [check_numbers(value, f"{place}, sample {number},") for number, value in enumerate(values)]
        if holds_objects or len({value.shape for value in whole}) > 1:
            return as_objects(whole)
    array = np.asarray(labels)
    if array.dtype == object and all(isinstance(label, str) for label in array.flat):
        array = array.astype(str)
    return as_labels(array if array.dtype.kind == "U" else check_numbers(array, place), place)


def _test_part(given: Any, first: Part, inputs: set[str], params: PythonDatasetParams) -> Part:
    if not isinstance(given, tuple) or len(given) != 2:
        raise UsageError(f"{params.factory}: the third value is not a pair (test_inputs, test_labels)")
    test, own = _part(given[0], given[1], params)
    if (own, test.constants) != (inputs, first.constants) or (test.labels is None) != (first.labels is None):
        raise UsageError(f"{params.factory}: the test part does not have the inputs and labels of the first part")
    return test
