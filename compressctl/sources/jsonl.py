"""JSON lines as samples: named fields become arrays, one is the label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.addressed import local_file
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.json_lines import json_rows
from compressctl.sources.params import JsonlParams, TokenizeParams
from compressctl.sources.rows import Row, arrays_of, labels_of, read_rows, texts_of
from compressctl.sources.splits import Splits, check_apart, choose
from compressctl.sources.tokenized import tokenized
from compressctl.sources.tokenizing import tokenizer_files

VERSION = 1


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
    classes, labels = (
        (None, None) if params.label is None else labels_of(rows, params.label, params.classes, is_text=params.text)
    )
    return SplitDataset(classes, splits, read_rows(arrays_of(rows, _fields(params)), labels))


def _of_texts(
    params: JsonlParams,
    tokenize: TokenizeParams,
    rows: Sequence[Row],
    splits: Splits,
    base: Path,
) -> Dataset:
    """Fields of text as tokens, see `sources/tokenized.py`."""
    texts = texts_of(rows, tokenize.texts, params.label)
    found = tokenized(texts, tokenize, base, params.classes, "the dataset jsonl with texts")
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
