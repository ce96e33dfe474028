"""What a search has finished, one small file for each point: a search that is started again repeats none of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compressctl.core.errors import CompressctlError, UsageError
from compressctl.core.regular_files import NotRegularError, read_regular
from compressctl.core.secrets import for_others
from compressctl.core.whole_files import lock, write_whole
from compressctl.search.document import SCHEMA_VERSION, Point

FOLDER = "journal"
_MOST_BYTES = 1 << 22
_OWN = (FOLDER, "search.json")


class Journal:
    """folder: the search's. A file that is damaged, or another version's, counts as not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def read(self, key: str) -> Point | None:
        try:
            content = json.loads(read_regular(self._path(key), _MOST_BYTES))
            if content["schema_version"] != SCHEMA_VERSION or content["point"]["key"] != key:
                return None
            return Point.model_validate(content["point"])
        except (
            OSError,
            NotRegularError,
            UsageError,
            ValueError,
            LookupError,
            TypeError,
            ValidationError,
            RecursionError,
        ):
            return None

    def write(self, point: Point) -> None:
        """Whole or not at all. Raises MachineError where the folder takes nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {"schema_version": SCHEMA_VERSION, "point": for_others(point.model_dump(mode="json"))}
        write_whole(self._path(point.key), [json.dumps(content, indent=1).encode()])

    def _path(self, key: str) -> Path:
        return self._folder / f"{key[:40]}.json"


def key_of(*parts: Any) -> str:
    """A hash that differs when anything that decides a point does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make the search's folder, and keep other searches out of it meanwhile. A search that was refused leaves no new folder. Raises UsageError
    where it holds something else, cannot be made, or is another search's now."""
    new = [place for place in (folder / FOLDER, folder, *folder.parents) if not place.exists()]
    _make(folder)
    held = lock(folder / FOLDER)
    if held is None:
        raise UsageError(f"another search works in {folder}", hint="wait for it, or name another --output")
    try:
        yield
    except CompressctlError:
        for place in new:
            with suppress(OSError):  # something was written to it
                place.rmdir()
        raise
    finally:
        os.close(held)


def _make(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", hint="name a new or empty folder for --output")
    try:
        if folder.is_dir() and any(folder.iterdir()) and not any((folder / own).exists() for own in _OWN):
            raise UsageError(
                f"{folder} is not empty and holds no search", hint="name a new or empty folder for --output"
            )
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        from compressctl.core.failures import refusal

        raise refusal(error) or UsageError(
            f"cannot write to {folder}: {error.strerror}", hint="choose another --output"
        ) from error
