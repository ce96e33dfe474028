"""Rows of named values, as samples: fields become arrays or texts, one is the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressctl.core.data import ShapesDifferError
from compressctl.core.errors import UsageError
from compressctl.sources.dataset import Read
from compressctl.sources.labels import as_labels
from compressctl.sources.tokenized import Row as Text

Row = tuple[Mapping[str, Any], str]
"""Values by name, and where they come from, for messages."""

_LARGEST = float(np.finfo(np.float32).max)


def arrays_of(rows: Sequence[Row], fields: Mapping[str, str]) -> dict[str, list[np.ndarray]]:
    """An array of each row by input. fields: by input, the field. What comes as an array keeps its type, in single precision; else float32, or int64 where
    all of a field's numbers are whole and written so. Raises UsageError for what is no number or list of them."""
    return {name: _same_kind([array_of(row, field, place) for row, place in rows]) for name, field in fields.items()}


def read_rows(inputs: Mapping[str, Sequence[np.ndarray]], labels: np.ndarray | None) -> Read:
    """As `SplitDataset` takes it; samples of equal shapes share a batch."""

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
        chosen = {name: [arrays[position] for position in positions] for name, arrays in inputs.items()}
        for name, arrays in chosen.items():
            if len({array.shape for array in arrays}) > 1:
                raise ShapesDifferError(f"lists of {name} differ in length", hint="pad them, or leave them as they are")
        stacked = {name: np.stack(arrays) for name, arrays in chosen.items()}
        return stacked, None if labels is None else labels[positions]

    return read


def texts_of(rows: Sequence[Row], texts: Sequence[str], label: str | None) -> list[Text]:
    """As `tokenized` takes them."""

    def text(row: Mapping[str, Any], place: str) -> Text:
        own = None if label is None else field_of(row, label, place)
        return Text(tuple(field_of(row, name, place) for name in texts), own, place)

    return [text(*entry) for entry in rows]


def labels_of(
    rows: Sequence[Row], field: str, classes: Sequence[str] | None, *, is_text: bool = False
) -> tuple[tuple[str, ...] | None, np.ndarray]:
    """Names of classes where labels are such, and the labels. is_text: names are no classes, but texts to recognise."""
    found = [field_of(row, field, place) for row, place in rows]
    if all(isinstance(label, str) for label in found):
        if is_text:
            return None, np.array(found, object)
        empty = next((place for label, (_, place) in zip(found, rows, strict=True) if not label.strip()), None)
        if empty is not None:
            raise UsageError(f"{empty}: the label is missing")
        names = tuple(classes) if classes else tuple(sorted(set(found)))
        odd_one = next((n for n, label in enumerate(found) if label not in names), None)
        if odd_one is not None:
            raise UsageError(f"{rows[odd_one][1]}: the label {found[odd_one]!r} is not among data.classes")
        number = {name: place for place, name in enumerate(names)}
        return names, np.array([number[label] for label in found], np.int64)
    arrays = [array_of(row, field, place) for row, place in rows]
    odd = next((n for n, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
    if odd is not None:
        raise UsageError(f"{rows[odd][1]}: its label is not of the same length as the first one's")
    return None, as_labels(np.stack(_same_kind(arrays)), f"field {field!r}")


def field_of(row: Mapping[str, Any], field: str, place: str) -> Any:
    if field not in row:
        raise UsageError(f"{place}: there is no field {field!r}", hint=f"it has {', '.join(map(str, list(row)[:20]))}")
    return row[field]


def array_of(row: Mapping[str, Any], field: str, place: str) -> np.ndarray:
    """Raises UsageError for what is no number or list of them, and for what is too large for single precision."""
    value = field_of(row, field, place)
    try:
        array = np.array(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        array = np.array(None)
    if array.dtype.kind not in "biuf" or array.ndim > 16:
        raise UsageError(f"{place}: {field!r} is no number, and no list of numbers, all of one length")
    if array.dtype == np.uint64 or (array.dtype.kind == "f" and np.abs(array).max(initial=0) > _LARGEST):
        raise UsageError(f"{place}: {field!r} holds a number that is too large")
    # Of lists numpy chooses the type, which their values decide.
    return array if hasattr(value, "dtype") else array.astype(np.int64 if array.dtype.kind in "biu" else np.float64)


def _same_kind(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    kinds = {array.dtype for array in arrays}
    if len(kinds) == 1 and kinds != {np.dtype(np.float64)}:
        return list(arrays)
    dtype = np.int64 if all(array.dtype.kind in "biu" for array in arrays) else np.float32
    return [array.astype(dtype) for array in arrays]
