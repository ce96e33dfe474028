"""Which letters or tokens a recogniser's classes stand for: from a list, a file of lines, a vocabulary, or the model's own metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import read_regular
from compressctl.sources.fingerprint import existing
from compressctl.tasks.params import LONGEST_LETTER

_LARGEST_FILE = 64 << 20
_MOST = 1 << 21
KEYS = ("character", "dictionary", "vocab", "alphabet")
"""Of a model's metadata: PP-OCR's, and what others write there."""


def letters_of(given: str | Sequence[str], base: Path) -> list[str]:
    """Without a blank that is not listed. given: the letters, or the file that holds them, a line for each; or an ONNX file, whose
    metadata do. Raises UsageError where they cannot be read."""
    if not isinstance(given, str):
        return list(given)
    path = existing(base / given, what="the alphabet")
    return _none_too_long(_lines(_metadata(path) if path.suffix == ".onnx" else _text(path), path), path)


def tokens_of(given: str | Sequence[str], base: Path) -> list[str]:
    """The same for tokens; a JSON file holds a list of them, or their numbers by token."""
    if isinstance(given, str) and given.endswith(".json"):
        path = existing(base / given, what="the vocabulary")
        return _none_too_long(_from_json(_text(path), path), path)
    return letters_of(given, base)


def _none_too_long(letters: list[str], path: Path) -> list[str]:
    """A letter stands for each step of a result."""
    for number, letter in enumerate(letters):
        if len(letter) > LONGEST_LETTER:
            raise UsageError(
                f"{path}: letter {number} has {len(letter):,} characters; {LONGEST_LETTER} are read",
                hint="write one letter or token on each line",
            )
    return letters


def _text(path: Path) -> str:
    try:
        return read_regular(path, _LARGEST_FILE).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no UTF-8 text: {error}") from None


def _lines(text: str, path: Path) -> list[str]:
    """A line that is a space is one; an empty line at the end is none."""
    found = [line.removesuffix("\r") for line in text.split("\n")]
    if found and not found[-1]:
        found.pop()
    if not found or len(found) > _MOST:
        raise UsageError(f"{path} holds {len(found):,} letters; 1 to {_MOST:,} are read", hint="write one on each line")
    return found


def _metadata(path: Path) -> str:
    from compressctl.sources.onnx_file import metadata

    stored = metadata(path)
    for key in KEYS:
        if stored.get(key):
            return stored[key]
    raise UsageError(
        f"the metadata of {path} hold no alphabet ({', '.join(KEYS)})",
        hint=f"they hold {', '.join(stored) or 'nothing'}; name a file with a letter on each line",
    )


def _from_json(text: str, path: Path) -> list[str]:
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from None
    if isinstance(found, list) and found and all(isinstance(token, str) for token in found):
        return found
    if isinstance(found, dict) and found and all(type(number) is int for number in found.values()):
        by_number = {number: token for token, number in found.items()}
        if min(by_number) >= 0 and max(by_number) < _MOST:
            return [by_number.get(number, "") for number in range(max(by_number) + 1)]
    raise UsageError(
        f"{path} is no vocabulary", hint="it holds a list of tokens, or each token's number: {token: number}"
    )
