"""Texts as a model's tokenizer makes arrays of them, by the library `tokenizers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.core.failures import refused_in
from compressctl.sources.fingerprint import existing
from compressctl.sources.json_lines import json_object
from compressctl.sources.text_lengths import MODEL_CONFIG, SENTENCE_CONFIG

if TYPE_CHECKING:
    from tokenizers import Encoding

TOKENIZER = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_PADS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")
"""Where no file says with which token texts are filled up."""

Text = str | Sequence[str]
"""A text, or its words."""


@dataclass(frozen=True)
class Tokens:
    """A sample's, each (tokens,) int64. words: the word that each token belongs to, -1 for special ones."""

    ids: np.ndarray
    types: np.ndarray
    words: np.ndarray


def tokenizer_file(given: str, base: Path) -> Path:
    """The tokenizer.json itself, or that of a folder. Raises UsageError where there is none."""
    path = base / given
    return existing(path / TOKENIZER if path.is_dir() else path, what="the tokenizer")


def tokenizer_files(given: str, base: Path) -> dict[str, Path]:
    """What decides arrays and the order of classes, for a fingerprint."""
    path = tokenizer_file(given, base)
    beside = {name: path.parent / name for name in (_CONFIG, MODEL_CONFIG, SENTENCE_CONFIG)}
    return {"tokenizer": path, **{name: file for name, file in beside.items() if file.is_file()}}


@dataclass(frozen=True)
class Tokenizer:
    """needed_for: what the message names where the library is missing."""

    path: Path
    needed_for: str
    _own: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_own", _read(self.path, self.needed_for))

    def encode(self, texts: Sequence[tuple[Text, ...]], max_length: int) -> list[Tokens]:
        """With the special tokens of the tokenizer; what is longer is cut. texts: one or both of a pair; all of them texts, or all words."""
        self._own.no_padding()
        self._own.enable_truncation(max_length)
        by_words = bool(texts) and not isinstance(texts[0][0], str)
        parts = [tuple(map(list, text)) if by_words else text for text in texts]
        given: list[Any] = [part[0] if len(part) == 1 else part for part in parts]
        return [_tokens(one) for one in self._own.encode_batch(given, is_pretokenized=by_words)]

    def running(self, text: str) -> np.ndarray:
        """(tokens,) int64 of a text of any length, without special tokens."""
        self._own.no_padding()
        self._own.no_truncation()
        pieces = [one.ids for one in self._own.encode_batch(list(_pieces(text)), add_special_tokens=False)]
        return np.array([number for ids in pieces for number in ids], np.int64)

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """Special tokens that the tokenizer puts before a text."""
        self._own.no_padding()
        self._own.no_truncation()
        one = self._own.encode("a")
        return tuple(one.ids[: one.special_tokens_mask.index(0)] if 0 in one.special_tokens_mask else ())

    def text(self, tokens: Sequence[int]) -> str:
        """Without special tokens."""
        return str(self._own.decode(list(tokens), skip_special_tokens=True))

    def id_of(self, token: str) -> int:
        """Raises UsageError for a token that is none of the vocabulary."""
        number = self._own.token_to_id(token)
        if number is None:
            raise UsageError(f"{self.path} has no token {token!r}")
        return int(number)

    def padded(self, tokens: Sequence[Tokens], length: int | None) -> dict[str, np.ndarray]:
        """input_ids, attention_mask and token_type_ids, (n, length) int64; the longest one's length where none is given."""
        width = max((len(one.ids) for one in tokens), default=0) if length is None else length
        pad = self._padding[0]
        arrays = {
            "input_ids": np.full((len(tokens), width), pad, np.int64),
            "attention_mask": np.zeros((len(tokens), width), np.int64),
            "token_type_ids": np.zeros((len(tokens), width), np.int64),
        }
        for row, one in enumerate(tokens):
            place = self.place(len(one.ids), width)
            arrays["input_ids"][row, place] = one.ids
            arrays["attention_mask"][row, place] = 1
            arrays["token_type_ids"][row, place] = one.types
        return arrays

    def place(self, count: int, width: int) -> slice:
        """Where so many tokens stand among padding."""
        return slice(width - count, width) if self._padding[1] else slice(0, count)

    @cached_property
    def _padding(self) -> tuple[int, bool]:
        """The id of what fills up, and whether it stands on the left."""
        beside = self.path.parent / _CONFIG
        said = json_object(beside) if beside.is_file() else {}
        named = said.get("pad_token")
        content = named.get("content") if isinstance(named, Mapping) else named
        names = [name for name in (content, *_PADS) if isinstance(name, str)]
        ids = (self._own.token_to_id(name) for name in names)
        return next((number for number in ids if number is not None), 0), said.get("padding_side") == "left"


def _tokens(one: Encoding) -> Tokens:
    words = np.array([-1 if word is None else word for word in one.word_ids], np.int64)
    return Tokens(np.array(one.ids, np.int64), np.array(one.type_ids, np.int64), words)


def _read(path: Path, needed_for: str) -> Any:
    try:
        from tokenizers import Tokenizer as Own
    except ImportError as error:
        raise MissingDependencyError(needed_for, "tokenizers", 'pip install "compressctl[text]"') from error
    try:
        return Own.from_file(str(path))
    except Exception as error:
        said = f"{path} is not a tokenizer"
        raise refused_in(said, error) or UsageError(
            f"{said}: {error}", hint="give the model's tokenizer.json, or its folder"
        ) from error


_PIECE = 1 << 18


def _pieces(text: str) -> Sequence[str]:
    """Parts that begin behind the end of a line, with a character that is no white space: no word and no run of spaces is cut."""
    pieces, start = [], 0
    while start < len(text):
        end = min(start + _PIECE, len(text))
        while end < len(text) and not (text[end - 1] == "\n" and not text[end].isspace()):
            end += 1
        pieces.append(text[start:end])
        start = end
    return pieces
