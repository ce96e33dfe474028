"""JSON objects in files: one on each line, or one in all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from compressctl.core.errors import UsageError, first_line
from compressctl.core.regular_files import open_regular, read_regular

_LONGEST_LINE = 1 << 26
_LARGEST_FILE = 1 << 29


def json_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each object with its place, as file:line; empty lines are passed over. Raises UsageError for what is none."""
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                place = f"{path}:{number}"
                if len(line) > _LONGEST_LINE:
                    raise UsageError(f"{place}: the line holds more than {_LONGEST_LINE:,} bytes")
                if line.strip():
                    yield _parsed(line, place), place
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def json_object(path: Path) -> dict[str, Any]:
    """The one object that a file holds. Raises UsageError for what is none."""
    try:
        return _parsed(read_regular(path, _LARGEST_FILE), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=_refused)
        if b"\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: it is no JSON: {first_line(error)}") from None
    if not isinstance(row, dict):
        raise UsageError(f"{place}: it is no JSON object", hint='as in {"x": [1, 2], "label": 3}')
    return row


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
