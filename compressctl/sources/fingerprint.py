"""Hashes that name what a source would load, from file contents and parameters; standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import NotRegularError, check_regular, open_regular

if TYPE_CHECKING:
    from pydantic import BaseModel

    from compressctl.core.source import SplitSizes


def source_fingerprint(kind: str, version: int, params: BaseModel, files: Mapping[str, Path]) -> str:
    """A hash of a source's name, its code version, its parameters and its files' contents.

    files: by a name that does not depend on where the files lie. Raises UsageError when one cannot be read.
    """
    return contents_fingerprint(kind, version, params, {name: hash_file(path) for name, path in files.items()})


def contents_fingerprint(
    kind: str, version: int, params: BaseModel, contents: Mapping[str, str], decides_nothing: Iterable[str] = ()
) -> str:
    """The same of files whose SHA-256 are known. decides_nothing: parameters beside the checksums, which refuse files and choose none."""
    words = params.model_dump(mode="json", exclude={"sha256", "external", *decides_nothing})
    return _hash_json(["source", kind, version, words, dict(sorted(contents.items()))])


def splits_fingerprint(source: str, sizes: SplitSizes, seed: int) -> str:
    """A dataset's fingerprint: that of its source, and what decides the splits."""
    return _hash_json(["dataset", source, sizes.model_dump(mode="json"), seed])


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="check the path in the recipe") from error


def existing(path: Path, *, what: str) -> Path:
    """The same path when it is a file. Raises UsageError that says what was looked for."""
    try:
        check_regular(path)
    except NotRegularError as error:
        error.message = f"{what} {error.message}"
        raise
    except IsADirectoryError:
        raise UsageError(f"{what} {path} is not a file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path, what) from None
    except (OSError, ValueError) as error:  # a name that is too long or no name, a folder that may not be entered
        raise _unreadable(path, what, error) from error
    return path


def existing_folder(path: Path, *, what: str) -> Path:
    """The same for a folder."""
    try:
        if path.is_dir():
            return path
        is_there = path.exists()
    except OSError as error:
        raise _unreadable(path, what, error) from error
    raise UsageError(f"{what} {path} is not a folder") if is_there else _missing(path, what)


def _missing(path: Path, what: str) -> UsageError:
    return UsageError(f"{what} {path} does not exist", hint="paths in a recipe start from the recipe's folder")


def _unreadable(path: Path, what: str, error: Exception) -> UsageError:
    reason = getattr(error, "strerror", None) or str(error)
    return UsageError(f"{what} {path} cannot be read: {reason}", hint="check the path in the recipe")


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
