"""Pairs of texts with a similarity, as samples of a model that embeds one text: two samples in a row are a pair."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from compressctl.core.data import Dataset, Tuples
from compressctl.core.errors import UsageError
from compressctl.core.regular_files import open_regular_text
from compressctl.core.source import SplitSizes
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import existing, source_fingerprint
from compressctl.sources.params import Column, SentencePairsParams
from compressctl.sources.splits import Splits, check_apart, choose
from compressctl.sources.text_lengths import longest_text
from compressctl.sources.tokenizing import Tokenizer, tokenizer_file, tokenizer_files

VERSION = 4


def load(params: SentencePairsParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Inputs input_ids, attention_mask and token_type_ids, int64 (n, tokens); labels (n,) float32, a pair's on both its samples.

    Splits and shuffled batches hold whole pairs, and the sizes of splits count pairs. Raises UsageError with file:line for a row that lacks a column or whose
    label is no number, MissingDependencyError without the library `tokenizers`.
    """
    paths = _paths(params, base)
    check_apart(*([path] for path in paths))
    tables = [_read(path, params) for path in paths]
    texts = [text for table in tables for pair in table for text in pair[:2]]
    labels = np.repeat(np.array([pair[2] for table in tables for pair in table], np.float32), 2)
    tokenizer = Tokenizer(tokenizer_file(params.tokenizer, base), "the dataset sentence_pairs")
    longest = longest_text(params.max_length, tokenizer.path)
    encoded = tokenizer.encode([(text,) for text in texts], longest)
    length = longest if params.padding == "max_length" else None
    pairs = choose(len(tables[0]), sizes, seed, own_test=sum(map(len, tables[1:])))

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        return tokenizer.padded([encoded[position] for position in positions], length), labels[positions]

    splits = Splits(*(_both(part) for part in (pairs.train, pairs.validation, pairs.calibration, pairs.test)))
    learned = np.concatenate([splits.train, splits.validation, splits.calibration])
    return SplitDataset(
        classes=None,
        splits=splits,
        read=read,
        tuples=Tuples(2, params.score_range or _score_range(labels[learned])),
    )


def fingerprint(params: SentencePairsParams, base: Path) -> str:
    files = dict(zip(("data", "test"), _paths(params, base), strict=False))
    files |= tokenizer_files(params.tokenizer, base)
    return source_fingerprint("sentence_pairs", VERSION, params, files)


def _paths(params: SentencePairsParams, base: Path) -> list[Path]:
    names = [params.path, *([params.test_path] if params.test_path else [])]
    return [existing(base / name, what="the table") for name in names]


def _both(pairs: np.ndarray) -> np.ndarray:
    """Positions of the two samples of each pair, one after the other."""
    return np.stack([2 * pairs, 2 * pairs + 1], axis=1).reshape(-1)


def _score_range(scores: np.ndarray) -> tuple[float, float]:
    """The scores of a cosine of 0 and of 1: the lowest and the highest, unless they may be cosines as they stand."""
    if not scores.size or np.abs(scores).max() <= 1:
        return 0.0, 1.0
    return float(scores.min()), float(scores.max())


def _read(path: Path, params: SentencePairsParams) -> list[tuple[str, str, float]]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if params.quotes else csv.QUOTE_NONE
    columns = params.columns
    wanted = (columns.first, columns.second, columns.label)
    found = []
    try:
        with open_regular_text(path, newline="") as file:
            rows = csv.reader(file, delimiter=params.delimiter, quoting=quoting)
            positions = _positions(wanted, rows, path)
            for row in rows:
                place = f"{path}:{rows.line_num}"
                if max(positions) >= len(row):
                    raise UsageError(f"{place}: it has {len(row)} columns, not {max(positions) + 1}", hint=_HINT)
                found.append((row[positions[0]], row[positions[1]], _number(row[positions[2]], place)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a table: {error}") from error
    if not found:
        raise UsageError(f"{path} holds no pairs")
    return found


_HINT = "check `delimiter`, `quotes` and `columns`"


def _positions(wanted: Sequence[Column], rows: object, path: Path) -> list[int]:
    """Names need a header, which is then read; positions mean that there is none."""
    if all(isinstance(column, int) for column in wanted):
        return [int(column) for column in wanted]
    header = next(rows, [])  # type: ignore[call-overload]
    for column in wanted:
        times = header.count(column) if isinstance(column, str) else int(column < len(header))
        if times != 1:
            what = "there is no column" if not times else "two columns are called"
            raise UsageError(f"{path}:1: {what} {column!r}", hint=f"there are: {', '.join(header)}")
    return [header.index(column) if isinstance(column, str) else column for column in wanted]


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{place}: the label {text!r} is not a number", hint=_HINT)
    return value
