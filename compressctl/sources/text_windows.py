"""Running text in windows of tokens, for language models. See text_blocks for their splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.regular_files import open_regular_text
from compressctl.core.source import SplitSizes
from compressctl.numerics.next_token import IGNORED_LABEL
from compressctl.sources.addressed import local_file
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.params import TextParams
from compressctl.sources.splits import check_apart
from compressctl.sources.text_blocks import dealt
from compressctl.sources.tokenizing import Tokenizer, tokenizer_file, tokenizer_files

VERSION = 2

_LARGEST = 1 << 32
"""Characters of one file, which are held in memory."""


def load(params: TextParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Inputs input_ids, attention_mask and token_type_ids (all one text), (n, window) int64; labels the same tokens, -100 where a token is context or begins a window.

    Windows never cross files, and what is left at a file's end is not used. Raises UsageError for files that are no UTF-8 text or shorter
    than a window, MissingDependencyError without the library `tokenizers`.
    """
    own, others = _paths(params, base)
    check_apart(own, others)
    tokenizer = Tokenizer(tokenizer_file(params.tokenizer, base), "the dataset text")
    size = _Size.of(params, tokenizer)
    parts = [_windows(path, tokenizer, size) for path in (*own, *others)]
    counts = [len(part.starts) for part in parts]
    splits = dealt(counts[: len(own)], counts[len(own) :], sizes, seed, size.overlapped)
    tokens = np.concatenate([part.tokens for part in parts])
    offsets = np.cumsum([0, *(len(part.tokens) for part in parts[:-1])])
    starts = np.concatenate([part.starts + offset for part, offset in zip(parts, offsets, strict=True)])
    is_first = np.concatenate([part.starts == 0 for part in parts])

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        windows = tokens[starts[positions][:, None] + np.arange(size.taken)]
        labels = windows.copy()
        labels[~is_first[positions], : size.taken - size.stride] = IGNORED_LABEL
        if size.bos is not None:
            windows = np.insert(windows, 0, size.bos, axis=1)
            labels = np.insert(labels, 0, IGNORED_LABEL, axis=1)
        kinds = np.zeros_like(windows)
        return {"input_ids": windows, "attention_mask": np.ones_like(windows), "token_type_ids": kinds}, labels

    return SplitDataset(None, splits, read)


def fingerprint(params: TextParams, base: Path) -> str:
    own, others = _paths(params, base)
    files = {f"file {place}": path for place, path in enumerate((*own, *others))}
    return source_fingerprint("text", VERSION, params, files | tokenizer_files(params.tokenizer, base))


@dataclass(frozen=True)
class _Size:
    """taken: tokens of the text in a window. stride: how many of them no window before holds. bos: the token before them."""

    taken: int
    stride: int
    bos: int | None

    @classmethod
    def of(cls, params: TextParams, tokenizer: Tokenizer) -> _Size:
        bos = None if params.bos_token is None else tokenizer.id_of(params.bos_token)
        taken = params.window - (bos is not None)
        return cls(taken, min(params.stride or taken, taken), bos)

    @property
    def overlapped(self) -> int:
        """How many windows after one hold some of its tokens."""
        return -(-self.taken // self.stride) - 1


@dataclass(frozen=True)
class _Windows:
    """Of one file. starts: (n,) where each window begins among the tokens."""

    tokens: np.ndarray
    starts: np.ndarray


def _windows(path: Path, tokenizer: Tokenizer, size: _Size) -> _Windows:
    try:
        with open_regular_text(path, "utf-8-sig") as file:
            text = file.read(_LARGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no UTF-8 text: {error}") from error
    if len(text) > _LARGEST:
        raise UsageError(f"{path} holds more than {_LARGEST:,} characters", hint="split it into several files")
    tokens = tokenizer.running(text)
    if len(tokens) < size.taken:
        raise UsageError(
            f"{path} holds {len(tokens)} tokens, fewer than a window of {size.taken}",
            hint="lower data.window, or name a file that holds more text",
        )
    return _Windows(tokens, np.arange(0, len(tokens) - size.taken + 1, size.stride))


def _paths(params: TextParams, base: Path) -> tuple[list[Path], list[Path]]:
    return (
        [local_file(name, None, base, "the text") for name in params.files],
        [local_file(name, None, base, "the text") for name in params.test_files or ()],
    )
