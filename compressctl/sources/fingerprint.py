"""Hashes that name what a source would load, from file contents and parameters; standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from compressctl.core.source import SplitSizes


def source_fingerprint(kind: str, version: int, params: BaseModel, files: Mapping[str, Path]) -> str:
    """A hash of a source's name, its code version, its parameters and its files' contents.

    files: by a name that does not depend on where the files lie. Raises UsageError when one cannot be read.
    """
    contents = {name: hash_file(path) for name, path in sorted(files.items())}
    return _hash_json(["source", kind, version, params.model_dump(mode="json"), contents])


def splits_fingerprint(source: str, sizes: SplitSizes, seed: int) -> str:
    """A dataset's fingerprint: that of its source, and what decides the splits."""
    return _hash_json(["dataset", source, sizes.model_dump(mode="json"), seed])


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="check the path in the recipe") from error


def existing(path: Path, *, what: str) -> Path:
    """The same path when it is a file. Raises UsageError that says what was looked for."""
    return _existing(path, what, Path.is_file, "a file")


def existing_folder(path: Path, *, what: str) -> Path:
    """The same for a folder."""
    return _existing(path, what, Path.is_dir, "a folder")


def _existing(path: Path, what: str, fits: Callable[[Path], bool], kind: str) -> Path:
    try:
        if fits(path):
            return path
        is_there = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise UsageError(
            f"{what} {path} cannot be read: {error.strerror}", hint="check the path in the recipe"
        ) from error
    if is_there:
        raise UsageError(f"{what} {path} is not {kind}")
    raise UsageError(f"{what} {path} does not exist", hint="paths in a recipe start from the recipe's folder")


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
