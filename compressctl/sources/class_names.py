"""Class names in a text file, one on each line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import read_regular

_LARGEST_NAMES = 1 << 26


def class_names(path: Path) -> tuple[str, ...]:
    """In the order of the lines; empty lines are none. Raises UsageError for what is no text, and for names that stand twice."""
    try:
        lines = read_regular(path, _LARGEST_NAMES).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) < len(names):
        raise UsageError(f"{path} names a class twice: {Counter(names).most_common(1)[0][0]}")
    return names
