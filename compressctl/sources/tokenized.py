"""Samples of texts with labels: rows of a table or of JSON lines, as tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.errors import UsageError
from compressctl.numerics.next_token import IGNORED_LABEL
from compressctl.sources.json_lines import json_object
from compressctl.sources.labels import as_labels
from compressctl.sources.params import TokenizeParams
from compressctl.sources.text_lengths import MODEL_CONFIG, longest_text
from compressctl.sources.tokenizing import Tokenizer, tokenizer_file


@dataclass(frozen=True)
class Row:
    """texts: one or both of a pair, each a text or its words. label: None where there are none. place: file:line, for messages."""

    texts: tuple[Any, ...]
    label: Any
    place: str


@dataclass(frozen=True)
class Tokenized:
    """classes: their names, None where labels are none. read: as `SplitDataset` takes it."""

    classes: tuple[str, ...] | None
    read: Callable[[np.ndarray], tuple[Mapping[str, np.ndarray], np.ndarray | None]]


def tokenized(
    rows: Sequence[Row], params: TokenizeParams, base: Path, classes: Sequence[str] | None, needed_for: str
) -> Tokenized:
    """Inputs input_ids, attention_mask and token_type_ids, (n, tokens) int64.

    Labels: (n,) int64 of names or whole numbers, (n,) float32 of other numbers, (n, tokens) int64 where each row's is a list with one for each of its
    words: a word's label stands at its first token, -100 elsewhere. classes: the recipe's. Raises UsageError with the place of what is none of these.
    """
    path = tokenizer_file(params.tokenizer, base)
    encoder = Tokenizer(path, needed_for)
    by_words = _check_texts(rows)
    longest = longest_text(params.max_length, path)
    encoded = encoder.encode([row.texts for row in rows], longest)
    length = longest if params.padding == "max_length" else None
    names, labels = _labels(rows, classes, path, by_words)

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
        chosen = [encoded[position] for position in positions]
        inputs = encoder.padded(chosen, length)
        if labels is None or not by_words:
            return inputs, None if labels is None else labels[positions]
        width = inputs["input_ids"].shape[1]
        placed = np.full((len(chosen), width), IGNORED_LABEL, np.int64)
        for row, (tokens, position) in enumerate(zip(chosen, positions, strict=True)):
            placed[row, encoder.place(len(tokens.ids), width)] = _at_first_tokens(tokens.words, labels[position])
        return inputs, placed

    return Tokenized(names, read)


def _check_texts(rows: Sequence[Row]) -> bool:
    """Whether texts are lists of words. Raises UsageError for rows that are of neither kind, or of both."""
    by_words = isinstance(rows[0].texts[0], list) if rows else False
    for row in rows:
        for text in row.texts:
            if by_words != isinstance(text, list) or not _is_text(text):
                what = "a list of words, as in the first row" if by_words else "a text"
                raise UsageError(f"{row.place}: {str(text)[:40]!r} is not {what}")
    return by_words


def _is_text(text: Any) -> bool:
    is_words = isinstance(text, list) and bool(text) and all(isinstance(word, str) for word in text)
    return isinstance(text, str) or is_words


def _labels(
    rows: Sequence[Row], classes: Sequence[str] | None, path: Path, by_words: bool
) -> tuple[tuple[str, ...] | None, Any]:
    if rows[0].label is None:
        return None, None
    if not by_words:
        names, numbers = _numbered([row.label for row in rows], [row.place for row in rows], classes, path)
        return names, as_labels(np.array(numbers), "the label")
    for row in rows:
        if not isinstance(row.label, list) or len(row.label) != len(row.texts[0]) or len(row.texts) > 1:
            raise UsageError(f"{row.place}: its label is not a list with one for each of its words")
    places = [row.place for row in rows for _ in row.label]
    names, numbers = _numbered([label for row in rows for label in row.label], places, classes, path)
    whole = as_labels(np.array(numbers), "the label")
    if whole.dtype.kind != "i":
        raise UsageError("labels of words are names of classes, or whole numbers from 0")
    ends = np.cumsum([len(row.label) for row in rows])
    return names, np.split(whole, ends[:-1])


def _numbered(
    labels: Sequence[Any], places: Sequence[str], classes: Sequence[str] | None, path: Path
) -> tuple[tuple[str, ...] | None, list[float]]:
    """Names of classes as their numbers. Numbers, also such in a table, stay as they are: a model's classes have them."""
    is_named = any(isinstance(label, str) for label in labels)
    for label, place in zip(labels, places, strict=True):
        is_number = isinstance(label, int | float) and math.isfinite(label)
        if not (isinstance(label, str) and label.strip() if is_named else is_number):
            raise UsageError(
                f"{place}: the label {str(label)[:40]!r} is {'no name of a class' if is_named else 'no number'}"
            )
    if is_named and all(_DIGITS.fullmatch(label) and label not in (classes or ()) for label in labels):
        labels, is_named = [int(label) for label in labels], False
    known = tuple(classes) if classes is not None else _of_model(path)
    if not is_named:
        beyond = [place for label, place in zip(labels, places, strict=True) if label not in range(len(known))]
        if beyond and classes is not None:
            raise UsageError(
                f"{beyond[0]}: data.classes names {len(known)} classes, and the label is none of their numbers"
            )
        return (known if not beyond and known else None), list(labels)
    found = set(labels)
    if classes is None and known and not found <= set(known) and not all(_UNNAMED.fullmatch(name) for name in known):
        odd = sorted(found - set(known))[0]
        raise UsageError(
            f"the label {odd!r} is none of the classes of the model beside the tokenizer: {', '.join(known[:20])}",
            hint="give data.classes, the names in your data in the order of the model's outputs",
        )
    names = known if classes is not None or found <= set(known) else tuple(sorted(found))
    number = {name: place for place, name in enumerate(names)}
    for label, place in zip(labels, places, strict=True):
        if label not in number:
            raise UsageError(
                f"{place}: the label {label!r} is not among data.classes", hint=f"they are {', '.join(names[:20])}"
            )
    return names, [number[label] for label in labels]


def model_classes(params: TokenizeParams, base: Path) -> tuple[str, ...]:
    """The names that somebody gave the classes of the model beside the tokenizer, in the order of its outputs; none where nobody did."""
    names = _of_model(tokenizer_file(params.tokenizer, base))
    return () if all(_UNNAMED.fullmatch(name) for name in names) else names


_UNNAMED = re.compile(r"LABEL_[0-9]+")
"""How transformers calls classes that nobody named."""

_DIGITS = re.compile(r"[0-9]{1,9}")


def _of_model(path: Path) -> tuple[str, ...]:
    """The classes that the config beside the tokenizer names, in the order of the model's outputs; none where it names none."""
    config = path.parent / MODEL_CONFIG
    named = json_object(config).get("id2label") if config.is_file() else None
    if not isinstance(named, dict) or not all(_DIGITS.fullmatch(key) for key in named):
        return ()
    names = tuple(str(name) for _, name in sorted(named.items(), key=lambda entry: int(entry[0])))
    return names if len(set(names)) == len(names) else ()


def _at_first_tokens(words: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(tokens,) int64. words: of each token, -1 for special ones. labels: (words,)."""
    is_first = (words >= 0) & np.concatenate([[True], words[1:] != words[:-1]])
    return np.where(is_first, labels[np.maximum(words, 0)], IGNORED_LABEL)
