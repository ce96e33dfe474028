"""A table of numbers with a column to predict."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.regular_files import open_regular_text
from compressctl.core.source import SplitSizes
from compressctl.sources.addressed import local_file
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.params import CsvParams, TokenizeParams
from compressctl.sources.splits import check_apart, choose
from compressctl.sources.tokenized import Row, tokenized
from compressctl.sources.tokenizing import tokenizer_files

VERSION = 1


def load(params: CsvParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Inputs (n, features) float32; labels (n,) int64 for classes, float32 for regression.

    Classes are sorted as numbers when all of them are, as text otherwise. Features are standardized by the train split
    alone. Raises UsageError with file:line:column for a value that is missing or not a number.
    """
    paths = _paths(params, base)
    check_apart(*([path] for path in paths))
    if params.tokenize is not None:
        return _of_texts(params, params.tokenize, paths, sizes, base, seed)
    first, *rest = [_read(path, params) for path in paths]
    for table in rest:
        if table.columns != first.columns:
            raise UsageError(f"{table.path}:1: its feature columns differ from those of {first.path}")
    features = np.concatenate([table.features for table in (first, *rest)])
    texts = [text for table in (first, *rest) for text in table.labels]
    splits = choose(len(first.features), sizes, seed, own_test=sum(len(table.features) for table in rest))
    if params.standardize:
        features = _standardized(features, splits.train)
    if params.task == "classification":
        classes, labels = _classes(texts, params.classes)
    else:
        classes, labels = None, _values(texts, first, rest)
    inputs = features.astype(np.float32)
    groups = np.array([name for table in (first, *rest) for name in table.groups or ()])

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        return {params.input_name: inputs[positions]}, labels[positions]

    return SplitDataset(
        classes=classes,
        splits=splits,
        read=read,
        groups=None if params.group is None else lambda positions: groups[positions],
    )


def _of_texts(
    params: CsvParams, tokenize: TokenizeParams, paths: Sequence[Path], sizes: SplitSizes, base: Path, seed: int
) -> Dataset:
    """The table's texts as tokens, see `sources/tokenized.py`."""
    parts = [_text_rows(path, params, tokenize.texts) for path in paths]
    rows = [row for part in parts for row in part]
    groups = np.array([group for _, group in rows])
    found = tokenized([row for row, _ in rows], tokenize, base, params.classes, "the dataset csv with texts")
    return SplitDataset(
        classes=found.classes,
        splits=choose(len(parts[0]), sizes, seed, own_test=sum(map(len, parts[1:]))),
        read=found.read,
        groups=None if params.group is None else lambda positions: groups[positions],
    )


def _text_rows(path: Path, params: CsvParams, columns: Sequence[str]) -> list[tuple[Row, str | None]]:
    """Each with its group."""
    header, rows = _rows(path, params)
    texts, label = [_column(path, header, name) for name in columns], _column(path, header, params.label)
    group = None if params.group is None else _column(path, header, params.group)
    if not rows:
        raise UsageError(f"{path} has no rows")
    found = []
    for line, row in rows:
        _check_width(path, line, row, header)
        named = row[label].strip()
        given = _number(named, path, line, params.label) if params.task == "regression" else named
        row_group = None if group is None else row[group].strip()
        found.append((Row(tuple(row[place] for place in texts), given, f"{path}:{line}"), row_group))
    return found


def fingerprint(params: CsvParams, base: Path) -> str:
    files = dict(zip(("data", "test"), _paths(params, base), strict=False))
    if params.tokenize is not None:
        files |= tokenizer_files(params.tokenize.tokenizer, base)
    return source_fingerprint("csv", VERSION, params, files)


@dataclass(frozen=True)
class _Table:
    """features: (rows, columns) float64. labels, groups: as they are written. lines: of the file, counted from 1."""

    path: Path
    columns: tuple[str, ...]
    features: np.ndarray
    labels: list[str]
    lines: list[int]
    groups: list[str] | None


def _paths(params: CsvParams, base: Path) -> list[Path]:
    named = [(params.path, params.sha256), *([(params.test_path, None)] if params.test_path is not None else [])]
    return [local_file(name, sha256, base, "the table") for name, sha256 in named]


def _rows(path: Path, params: CsvParams) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and each row with its line."""
    try:
        with open_regular_text(path, "utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=params.delimiter)
            header = [name.strip() for name in next(lines, [])]
            rows = [(lines.line_num, row) for row in lines if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a table: {error}") from error
    if not any(header):
        raise UsageError(f"{path} is empty: its first line names the columns")
    twice = next((name for name, times in Counter(header).items() if times > 1), None)
    if twice is not None:
        raise UsageError(f"{path}:1: two columns are called {twice!r}", hint="give each a name of its own")
    return header, rows


def _read(path: Path, params: CsvParams) -> _Table:
    header, rows = _rows(path, params)
    label = _column(path, header, params.label)
    group = None if params.group is None else _column(path, header, params.group)
    chosen = params.features or tuple(name for name in header if name not in (params.label, params.group))
    positions = [_column(path, header, name) for name in chosen]
    if label in positions:
        raise UsageError(f"{path}: the label {params.label!r} is also among data.features; it would predict itself")
    if not positions or not rows:
        raise UsageError(f"{path} has {'no columns beside the label' if rows else 'no rows'}")
    features = np.empty((len(rows), len(positions)))
    for place, (line, row) in enumerate(rows):
        _check_width(path, line, row, header)
        for column, position in enumerate(positions):
            features[place, column] = _number(row[position], path, line, header[position])
        if not row[label].strip():
            raise UsageError(f"{path}:{line}: column {params.label!r}: the label is missing", hint="clean the table")
    return _Table(
        path=path,
        columns=tuple(chosen),
        features=features,
        labels=[row[label].strip() for _, row in rows],
        lines=[line for line, _ in rows],
        groups=None if group is None else [row[group].strip() for _, row in rows],
    )


def _check_width(path: Path, line: int, row: Sequence[str], header: Sequence[str]) -> None:
    if len(row) != len(header):
        raise UsageError(f"{path}:{line}: this line has {len(row)} values, the first names {len(header)} columns")


def _column(path: Path, header: Sequence[str], name: str) -> int:
    if name not in header:
        raise UsageError(
            f"{path}:1: there is no column {name!r}", hint=f"it has {', '.join(header)}; is data.delimiter right?"
        )
    return list(header).index(name)


def _number(text: str, path: Path, line: int, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        what = f"{text!r} is not a number" if text.strip() else "the value is missing"
        raise UsageError(
            f"{path}:{line}: column {column!r}: {what}",
            hint="clean the table, or name the columns to use in data.features",
        )
    return value


def _standardized(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    if not len(train):
        raise UsageError(
            "there is no train split to compute the features' mean and deviation from",
            hint="lower data.calibration, data.validation or data.test, or set data.standardize to false",
        )
    deviation = features[train].std(axis=0)
    # A column that never changes carries nothing; dividing by 1 makes it 0.
    standardized: np.ndarray = (features - features[train].mean(axis=0)) / np.where(deviation == 0, 1.0, deviation)
    return standardized


def _classes(texts: Sequence[str], given: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """given: the recipe's, in its order."""
    found = set(texts)
    if given is not None and not found <= set(given):
        raise UsageError(
            f"the label {sorted(found - set(given))[0]!r} is not among data.classes",
            hint=f"they are {', '.join(given[:20])}",
        )
    try:
        names = tuple(sorted(found, key=float)) if given is None else tuple(given)
    except ValueError:
        names = tuple(sorted(found))
    position = {name: number for number, name in enumerate(names)}
    return names, np.array([position[text] for text in texts], np.int64)


def _values(texts: Sequence[str], first: _Table, rest: Sequence[_Table]) -> np.ndarray:
    places = [(table.path, line) for table in (first, *rest) for line in table.lines]
    return np.array(
        [_number(text, path, line, "of labels") for text, (path, line) in zip(texts, places, strict=True)], np.float32
    )
