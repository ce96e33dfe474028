"""JSON lines as samples: named fields become arrays, one is the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.data import Dataset, ShapesDifferError
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.addressed import local_file
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.json_lines import json_rows
from compressctl.sources.labels import as_labels
from compressctl.sources.params import JsonlParams, TokenizeParams
from compressctl.sources.splits import Splits, check_apart, choose
from compressctl.sources.tokenized import Row, tokenized
from compressctl.sources.tokenizing import tokenizer_files

VERSION = 1

_LARGEST = float(np.finfo(np.float32).max)


def load(params: JsonlParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Inputs: float32, or int64 where all of a field's numbers are whole and written so; samples of equal shapes share a batch.

    Raises UsageError with file:line where a field is missing, or is no number or list of them.
    """
    paths = _paths(params, base)
    check_apart(*([path] for path in paths))
    parts = [list(json_rows(path)) for path in paths]
    rows = [row for part in parts for row in part]
    if not rows:
        raise UsageError(f"{params.path} holds no lines")
    splits = choose(len(parts[0]), sizes, seed, own_test=sum(map(len, parts[1:])))
    if params.tokenize is not None:
        return _of_texts(params, params.tokenize, rows, splits, base)
    inputs = {
        name: _same_kind([_array(row, field, place) for row, place in rows]) for name, field in _fields(params).items()
    }
    classes, labels = _labels(params, rows)

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
        chosen = {name: [arrays[position] for position in positions] for name, arrays in inputs.items()}
        for name, arrays in chosen.items():
            if len({array.shape for array in arrays}) > 1:
                raise ShapesDifferError(f"lists of {name} differ in length", hint="pad them, or leave them as they are")
        return {name: np.stack(arrays) for name, arrays in chosen.items()}, None if labels is None else labels[
            positions
        ]

    return SplitDataset(classes, splits, read)


def _of_texts(
    params: JsonlParams,
    tokenize: TokenizeParams,
    rows: Sequence[tuple[Mapping[str, Any], str]],
    splits: Splits,
    base: Path,
) -> Dataset:
    """Fields of text as tokens, see `sources/tokenized.py`."""

    def texts(row: Mapping[str, Any], place: str) -> Row:
        label = None if params.label is None else _field(row, params.label, place)
        return Row(tuple(_field(row, name, place) for name in tokenize.texts), label, place)

    found = tokenized([texts(*entry) for entry in rows], tokenize, base, params.classes, "the dataset jsonl with texts")
    return SplitDataset(found.classes, splits, found.read)


def fingerprint(params: JsonlParams, base: Path) -> str:
    files = dict(zip(("data", "test"), _paths(params, base), strict=False))
    if params.tokenize is not None:
        files |= tokenizer_files(params.tokenize.tokenizer, base)
    return source_fingerprint("jsonl", VERSION, params, files)


def _paths(params: JsonlParams, base: Path) -> list[Path]:
    named = [(params.path, params.sha256), *([(params.test_path, None)] if params.test_path is not None else [])]
    return [local_file(name, sha256, base, "the JSON lines") for name, sha256 in named]


def _fields(params: JsonlParams) -> dict[str, str]:
    assert params.inputs is not None, "the params ask for one of the two"
    return {name: name for name in params.inputs} if isinstance(params.inputs, tuple) else dict(params.inputs)


def _field(row: Mapping[str, Any], field: str, place: str) -> Any:
    if field not in row:
        raise UsageError(f"{place}: there is no field {field!r}", hint=f"it has {', '.join(list(row)[:20])}")
    return row[field]


def _array(row: Mapping[str, Any], field: str, place: str) -> np.ndarray:
    try:
        array = np.array(_field(row, field, place))
    except (ValueError, OverflowError, RecursionError):
        array = np.array(None)
    if array.dtype.kind not in "biuf" or array.ndim > 16:
        raise UsageError(f"{place}: {field!r} is no number, and no list of numbers, all of one length")
    if array.dtype == np.uint64 or (array.dtype.kind == "f" and np.abs(array).max(initial=0) > _LARGEST):
        raise UsageError(f"{place}: {field!r} holds a number that is too large")
    return array


def _same_kind(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    dtype = np.int64 if all(array.dtype.kind in "biu" for array in arrays) else np.float32
    return [array.astype(dtype) for array in arrays]


def _labels(
    params: JsonlParams, rows: Sequence[tuple[Mapping[str, Any], str]]
) -> tuple[tuple[str, ...] | None, np.ndarray | None]:
    """Names of classes where labels are such, and the labels."""
    if params.label is None:
        return None, None
    found = [_field(row, params.label, place) for row, place in rows]
    if all(isinstance(label, str) for label in found):
        if params.text:
            return None, np.array(found, object)
        empty = next((place for label, (_, place) in zip(found, rows, strict=True) if not label.strip()), None)
        if empty is not None:
            raise UsageError(f"{empty}: the label is missing")
        names = params.classes or tuple(sorted(set(found)))
        odd_one = next((n for n, label in enumerate(found) if label not in names), None)
        if odd_one is not None:
            raise UsageError(f"{rows[odd_one][1]}: the label {found[odd_one]!r} is not among data.classes")
        number = {name: place for place, name in enumerate(names)}
        return names, np.array([number[label] for label in found], np.int64)
    arrays = [_array(row, params.label, place) for row, place in rows]
    odd = next((n for n, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
    if odd is not None:
        raise UsageError(f"{rows[odd][1]}: its label is not of the same length as the first one's")
    return None, as_labels(np.stack(_same_kind(arrays)), f"field {params.label!r}")
