"""Samples of a dataset that the library datasets reads: columns become arrays, tokens or images, one is the label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.dataset import Read, SplitDataset
from compressctl.sources.hf_dataset.columns import check_columns, class_names_of, is_text, kind_of
from compressctl.sources.hf_dataset.opened import opened
from compressctl.sources.hf_dataset.rows import Rows
from compressctl.sources.images import Preparation, as_inputs, decode_all
from compressctl.sources.params import DatasetSplits, HfDatasetParams
from compressctl.sources.rows import Row, arrays_of, labels_of, read_rows, texts_of
from compressctl.sources.splits import choose
from compressctl.sources.tokenized import model_classes, tokenized

if TYPE_CHECKING:
    from datasets import Dataset as Table

Role = Literal["train", "validation", "test", "calibration"]
_ROLES: tuple[Role, ...] = ("train", "validation", "test", "calibration")
"""In the order in which `choose` counts them."""
_USUAL: Mapping[Role, Sequence[str]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_HIDDEN = -1
"""The class of samples whose labels nobody gives away, as in tests of benchmarks."""


def load(params: HfDatasetParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Inputs: of numbers float32, or int64 where all of a column's are whole; of texts see `sources/tokenized.py`; of images as `image_folder` has them.

    Rows that no split takes are not read; images are decoded when their batch is read. Raises UsageError with split[row] for a value that does not fit.
    """
    tables = opened(params, base)
    roles = _roles(params, tables)
    used = _uses(params)
    for name in roles.values():
        check_columns(tables[name].features, used, f"{params.path}, split {name}")
    parts = [(name, tables[name].select_columns(list(used))) for name in roles.values()]
    counts = {role: len(tables[name]) for role, name in roles.items()}
    splits = choose(
        counts.get("train", 0),
        sizes,
        seed,
        own_validation=counts.get("validation", 0),
        own_test=counts.get("test", 0),
        own_calibration=counts.get("calibration", 0),
    )
    positions = np.unique(np.concatenate([splits.train, splits.validation, splits.calibration, splits.test]))
    if not len(positions):
        raise UsageError(
            f"{params.path}: no split has a row to read",
            hint="raise data.test or data.calibration, or name other splits under data.splits",
        )
    if params.image is not None:
        parts = [(name, _undecoded(table, params.image)) for name, table in parts]
    rows = Rows(params.path, parts, positions)
    label = None if params.label is None else _Label.of(params, params.label, parts, base)
    classes, read = _read(params, rows, label, base)
    # The readers count the rows that are used; the splits count all.
    return SplitDataset(classes, splits, lambda wanted: read(np.searchsorted(positions, wanted)))


def _roles(params: HfDatasetParams, tables: Mapping[str, Table]) -> dict[Role, str]:
    """By what it serves for, the dataset's split, in the order of _ROLES."""
    has = f"it has {', '.join(list(tables)[:20])}"
    if params.splits is not None:
        named = _named(params.splits)
        for role, name in named.items():
            if name not in tables:
                raise UsageError(f"{params.path} has no split {name!r}, which data.splits.{role} names", hint=has)
        return named
    if len(tables) == 1:
        return {"train": next(iter(tables))}
    found: dict[Role, str | None] = {
        role: next((name for name in usual if name in tables), None) for role, usual in _USUAL.items()
    }
    if found["train"] is None or found["validation"] is found["test"] is None:
        raise UsageError(
            f"{params.path}: which of its splits serve for what is not told by their names",
            hint=f"{has}; write data.splits, as in {{train: {next(iter(tables))}, test: {list(tables)[-1]}}}",
        )
    if found["test"] is None:  # what is reported is unseen
        found |= {"validation": None, "test": found["validation"]}
    return {role: split for role in _ROLES if (split := found.get(role)) is not None}


def _named(splits: DatasetSplits) -> dict[Role, str]:
    return {role: name for role in _ROLES if (name := getattr(splits, role)) is not None}


def _uses(params: HfDatasetParams) -> dict[str, str]:
    """By column, what it is taken for."""
    if params.image is not None:
        uses = {params.image: "images"}
    elif params.tokenize is not None:
        uses = dict.fromkeys(params.tokenize.texts, "text")
    else:
        uses = dict.fromkeys(_inputs(params).values(), "numbers")
    if params.label in uses:
        raise UsageError(f"{params.path}: the label {params.label!r} is an input too; it would predict itself")
    return uses | ({params.label: "a label"} if params.label is not None else {})


def _inputs(params: HfDatasetParams) -> dict[str, str]:
    assert params.inputs is not None, "the params ask for one of three"
    return {name: name for name in params.inputs} if isinstance(params.inputs, tuple) else dict(params.inputs)


def _read(params: HfDatasetParams, rows: Rows, label: _Label | None, base: Path) -> tuple[tuple[str, ...] | None, Read]:
    """Names of classes, and what reads the rows at indices of `rows`."""
    if params.tokenize is not None:
        texts = texts_of([_labelled(row, label) for row in rows], params.tokenize.texts, params.label)
        classes = None if label is None else label.given
        found = tokenized(texts, params.tokenize, base, classes, "the dataset hf_dataset with texts")
        return found.classes, found.read
    names, labels = None, None
    if label is not None:
        named = [_labelled(row, label) for row in _only(rows, label.column)]
        names, labels = labels_of(named, label.column, label.given, is_text=params.text)
        names = names or label.numbered
    if params.image is None:
        return names, read_rows(arrays_of(rows, _inputs(params)), labels)
    return names, _images(params, params.image, rows, labels)


def _images(params: HfDatasetParams, column: str, rows: Rows, labels: np.ndarray | None) -> Read:
    preparation = Preparation.of(params)

    def read(indices: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
        chosen = list(_only(rows, column).at(rows.positions[indices]))
        sources = [_encoded(row[column], place) for row, place in chosen]
        images = decode_all(sources, [place for _, place in chosen], preparation)
        return {params.input_name: as_inputs(images, params)}, None if labels is None else labels[indices]

    return read


def _undecoded(table: Table, column: str) -> Table:
    """With images as they are stored, for the decoder that all sources share."""
    feature = table.features[column]
    return (
        table.cast_column(column, type(feature)(decode=False))
        if kind_of(feature) == "images" and hasattr(feature, "decode")
        else table
    )


def _encoded(value: Any, place: str) -> bytes:
    """What an image's file holds, which save_to_disk puts into the dataset."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, bytes):
        return content
    path = value.get("path") if isinstance(value, Mapping) else None
    if path is None:
        raise UsageError(f"{place}: there is no image")
    raise UsageError(
        f"{place}: its image is not in the dataset but in {path}, which may be gone, or change without anybody's noticing",
        hint="load the dataset with the library datasets where that file lies, and call save_to_disk, which puts images into it",
    )


def _only(rows: Rows, column: str) -> Rows:
    return Rows(rows.where, [(name, table.select_columns([column])) for name, table in rows.parts], rows.positions)


@dataclass(frozen=True)
class _Label:
    """own: names of a column of classes. is_named: their numbers become names, which are then told apart as text is.

    given: names of classes in the order of the model's outputs, None where the readers find them. numbered: names that numbers already count.
    """

    column: str
    own: tuple[str, ...] | None
    is_named: bool
    given: tuple[str, ...] | None
    numbered: tuple[str, ...] | None

    @classmethod
    def of(cls, params: HfDatasetParams, column: str, parts: Sequence[tuple[str, Table]], base: Path) -> _Label:
        own = class_names_of(parts[0][1].features[column])
        other = next((name for name, table in parts if class_names_of(table.features[column]) != own), None)
        if other is not None:
            raise UsageError(
                f"{params.path}: the split {other} numbers the classes of {column!r} otherwise than {parts[0][0]}"
            )
        model = model_classes(params.tokenize, base) if params.tokenize is not None else ()
        if params.classes is not None:
            return cls(column, own, own is not None, params.classes, None)
        if own is not None:
            is_models = bool(model) and set(own) <= set(model)
            return cls(column, own, is_models, None if is_models else own, None if is_models else own)
        is_free = not model and not params.text and is_text(parts[0][1].features[column])
        return cls(column, None, False, _all_names(table[column] for _, table in parts) if is_free else None, None)

    def named(self, value: Any, place: str) -> Any:
        """A label as the readers take it."""
        if self.own is None or value is None:
            return value
        if isinstance(value, list):
            return [self.named(one, place) for one in value]
        if value == _HIDDEN:
            raise UsageError(
                f"{place}: its label is -1, which stands for none: such a split keeps its labels to itself",
                hint="name a split that has labels under data.splits, as in {train: train, test: validation}, or leave data.label out",
            )
        if value not in range(len(self.own)):
            raise UsageError(f"{place}: its label is {value}, and the column names {len(self.own)} classes")
        return self.own[value] if self.is_named else value


def _labelled(row: Row, label: _Label | None) -> Row:
    values, place = row
    return row if label is None else ({**values, label.column: label.named(values[label.column], place)}, place)


def _all_names(columns: Iterable[Iterable[Any]]) -> tuple[str, ...] | None:
    """Of all rows, so that fewer samples leave the numbers of classes as they are; None where the readers are to say what is wrong."""
    found: set[Any] = set()
    for value in chain.from_iterable(columns):
        found.update(value if isinstance(value, list) else [value])
    is_named = bool(found) and all(isinstance(name, str) and name.strip() for name in found)
    return tuple(sorted(found)) if is_named and not all(name.isdecimal() for name in found) else None
