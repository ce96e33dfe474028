"""Samples that the recipe author's function gives one by one: dictionaries, or pairs of inputs and a label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError, in_short
from compressctl.core.failures import refused_in
from compressctl.core.source import SplitSizes
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.params import PythonDatasetParams
from compressctl.sources.rows import Row, arrays_of, labels_of, read_rows
from compressctl.sources.splits import choose

_SPLITS = ("train", "validation", "test")
_INPUT = "input"
_LABEL = ""
"""The name of a pair's label: no field of a dictionary that becomes an input has it."""


def is_samples(given: Any) -> bool:
    """Whether it is what `of_samples` reads: a list, a generator, torch's kind of dataset; or splits of them by name."""
    if isinstance(given, Mapping):
        return "train" in given and set(given) <= set(_SPLITS)
    is_numbered = hasattr(given, "__len__") and hasattr(given, "__getitem__")
    return (isinstance(given, Iterable) or is_numbered) and not isinstance(given, str | bytes | np.ndarray)


def of_samples(given: Any, params: PythonDatasetParams, sizes: SplitSizes, seed: int) -> Dataset:
    """Inputs under the samples' own keys, `input` where a sample is a single array. All of them are read now, and kept in memory.

    Raises UsageError for samples that are none, or that do not have the first one's keys.
    """
    by_split = given if isinstance(given, Mapping) else {"train": given}
    parts = [
        list(_rows(by_split[name], params, name if len(by_split) > 1 else "")) for name in _SPLITS if name in by_split
    ]
    rows = [row for part in parts for row in part]
    if not parts[0]:
        raise UsageError(f"{params.factory} returned no samples")
    names = [name for name in rows[0][0] if name not in (_LABEL, params.label)]
    wanted = set(rows[0][0])
    for row, place in rows:
        if set(row) != wanted:
            odd = sorted(set(row) ^ wanted)[0] or "a label"
            raise UsageError(f"{place}: {odd} is in some samples alone", hint="give every sample the same keys")
    counts = dict(zip([name for name in _SPLITS if name in by_split], map(len, parts), strict=True))
    label = params.label if params.label is not None else _LABEL if _LABEL in wanted else None
    classes, labels = (params.classes, None) if label is None else labels_of(rows, label, params.classes)
    return SplitDataset(
        classes=classes or params.classes,
        splits=choose(
            counts["train"],
            sizes,
            seed,
            own_validation=counts.get("validation", 0),
            own_test=counts.get("test", 0),
        ),
        read=read_rows(arrays_of(rows, {name: name for name in names}), labels),
    )


def _rows(samples: Any, params: PythonDatasetParams, split: str) -> Iterator[Row]:
    where = f"{params.factory}{f', {split}' if split else ''}, sample"
    for number, sample in enumerate(_each(samples, where)):
        yield _row(sample, params, f"{where} {number}"), f"{where} {number}"


def _each(samples: Any, where: str) -> Iterator[Any]:
    """torch's datasets are read by number: they have no end of their own."""
    is_numbered = hasattr(samples, "__len__") and hasattr(samples, "__getitem__")
    given: Iterator[Any] = (samples[n] for n in range(len(samples))) if is_numbered else iter(samples)
    number = 0
    while True:
        try:
            sample = next(given)
        except StopIteration:
            return
        except Exception as error:
            said = f"{where} {number} cannot be had"
            raise refused_in(said, error) or UsageError(f"{said}: {in_short(error)}") from error
        yield sample
        number += 1


def _row(sample: Any, params: PythonDatasetParams, place: str) -> dict[str, Any]:
    """By name; the label of a pair under an empty one."""
    if isinstance(sample, Mapping):
        row = {str(name): value for name, value in sample.items()}
        if params.label is not None and params.label not in row:
            raise UsageError(f"{place} has no {params.label}, which data.label names", hint=f"it has {', '.join(row)}")
        return row
    if params.label is not None:
        raise UsageError(f"{place} is a {type(sample).__name__}", hint="data.label names a key: return dictionaries")
    if isinstance(sample, tuple | list) and len(sample) == 2:
        inputs, label = sample
        return {**(inputs if isinstance(inputs, Mapping) else {_INPUT: inputs}), _LABEL: label}
    if hasattr(sample, "dtype"):
        return {_INPUT: sample}
    raise UsageError(
        f"{place} is a {type(sample).__name__}",
        hint="return dictionaries of arrays, (inputs, label), or arrays",
    )
