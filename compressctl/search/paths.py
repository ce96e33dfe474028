"""Relative paths in a recipe's sections, made to start from another folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_NAMED = ("path", "weights", "structure", "factory", "function")


def moved(value: Any, base: Path, to: Path, key: str = "") -> Any:
    """The same sections for a recipe in another folder. base: the folder that their paths start from now.

    A text is a path where its key is one of paths, or where it looks like one (a separator, or an ending) and something is there.
    """
    if isinstance(value, dict):
        return {name: moved(inner, base, to, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [moved(inner, base, to, key) for inner in value]
    if not isinstance(value, str) or not _is_path(value, base, key):
        return value
    file, code, function = value.partition(".py:")
    return f"{_from(base / f'{file}{code[:3]}', to)}{code[3:]}{function}"


def _is_path(text: str, base: Path, key: str) -> bool:
    file, code, _ = text.partition(".py:")
    place = Path(f"{file}{code[:3]}")
    if "://" in text or "${" in text or place.is_absolute():
        return False
    if key == "path":
        return True  # whatever is missing is missed where it should be
    try:
        is_there = bool(text) and (base / place).exists()
    except (OSError, ValueError):
        return False
    return is_there and (key in _NAMED or bool(code) or "/" in text or bool(place.suffix))


def _from(path: Path, to: Path) -> str:
    """Relative where one leads to the other, in full where they are far apart."""
    try:
        relative = Path(os.path.relpath(path.resolve(), to.resolve())).as_posix()
    except ValueError:  # on another drive
        return path.resolve().as_posix()
    return path.resolve().as_posix() if relative.startswith("../../..") else relative
