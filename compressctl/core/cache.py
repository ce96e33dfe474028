"""A content-addressed cache of folders: written whole or not at all, verified when read, safe for several writers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_MANIFEST = "manifest.json"
_UNFINISHED = "unfinished"
_UNFINISHED_SECONDS = 14 * 24 * 3600
"""Nobody resumes a run that was killed two weeks ago."""


class Cache:
    """Entries are folders under root, named by their key (a hex digest of everything that decides the content)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __contains__(self, key: str) -> bool:
        """Whether an entry stands there; `read` may still find it damaged."""
        return (self._root / key / _MANIFEST).is_file()

    def read(self, key: str) -> Path | None:
        """The entry's folder when every file in it is whole, None otherwise. A damaged entry is removed."""
        folder = self._root / key
        if key not in self:
            return None
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        os.utime(folder)
        return folder

    def write(self, key: str, fill: Callable[[Path], None]) -> None:
        """Let `fill` write an entry's files into a new folder, which then appears under its key at once.

        When another process was faster, its entry stays and this one is dropped: they hold the same.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=self._root))
        try:
            fill(temporary)
            manifest = {str(file.relative_to(temporary)): _digest(file) for file in _files(temporary)}
            _write_durably(temporary / _MANIFEST, json.dumps(manifest))
            try:
                temporary.rename(self._root / key)
            except OSError:
                if key not in self:
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def unfinished(self, key: str) -> Path:
        """A folder for what shall outlive a killed run: whoever works on this entry again finds it, until `finish`."""
        folder = self._root / _UNFINISHED / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self, key: str) -> None:
        """Remove what `unfinished` kept."""
        shutil.rmtree(self._root / _UNFINISHED / key, ignore_errors=True)

    def trim(self, limit_bytes: int) -> None:
        """Remove the entries that were used longest ago until the rest fits, and what was left unfinished weeks ago."""
        if not self._root.is_dir():
            return
        for folder in (self._root / _UNFINISHED).glob("*"):
            if time.time() - folder.stat().st_mtime > _UNFINISHED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        entries = [entry for entry in self._root.iterdir() if (entry / _MANIFEST).is_file()]
        entries.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
        total = 0
        for entry in entries:
            total += sum(file.stat().st_size for file in _files(entry))
            if total > limit_bytes:
                shutil.rmtree(entry, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        return all(_digest(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_durably(path: Path, text: str) -> None:
    """The manifest is written last and reaches the disk before the rename makes the entry visible."""
    with path.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
