"""A content-addressed cache of folders: written whole or not at all, verified when read, safe for several writers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from compressctl.core.private_folders import is_private, make_private
from compressctl.core.regular_files import NotRegularError, open_regular, read_regular
from compressctl.core.whole_files import FolderInWriting, sweep

MANIFEST = "manifest.json"
_UNFINISHED = "unfinished"
_UNFINISHED_SECONDS = 14 * 24 * 3600
"""Nobody resumes a run that was killed two weeks ago."""


class Cache:
    """Entries are folders under root, named by their key (a hex digest of everything that decides the content)."""

    def __init__(self, root: Path, *, trusts_others: bool = False) -> None:
        """trusts_others: entries are taken that other users wrote or can write to."""
        self.root = root
        self._trusts_others = trusts_others

    def __contains__(self, key: str) -> bool:
        """Whether something stands there; `read` may still find it damaged."""
        return os.path.lexists(self.root / key)

    def read(self, key: str) -> Path | None:
        """The entry's folder when it is this key's, holds what was written and is only its owner's to change; None otherwise.

        An entry that is not is removed.
        """
        folder = self.root / key
        if key not in self:
            return None
        if not self._is_whole(folder, key):
            self.remove(key)
            return None
        with suppress(OSError):  # where nothing can be written nothing is trimmed either
            os.utime(folder)
        return folder

    def _is_whole(self, folder: Path, key: str) -> bool:
        try:
            paths = [folder, *folder.rglob("*")]
            found = [path.lstat() for path in paths]
            if not all(stat.S_ISDIR(one.st_mode) or stat.S_ISREG(one.st_mode) for one in found):
                return False
            if not self._trusts_others and not all(map(is_private, found)):
                return False
            manifest = json.loads(read_regular(folder / MANIFEST))
            files = {str(path.relative_to(folder)) for path in paths if not path.is_dir()} - {MANIFEST}
            if manifest["key"] != key or files != manifest["files"].keys():
                return False
            return all(_digest(folder / name) == digest for name, digest in manifest["files"].items())
        except (OSError, NotRegularError, ValueError, AttributeError, LookupError, TypeError, RecursionError):
            return False

    def remove(self, key: str) -> None:
        """Whatever stands there, as far as it can be removed."""
        path = self.root / key
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()

    def write(self, key: str, fill: Callable[[Path], None]) -> None:
        """Let `fill` write an entry's files into a new folder, which then appears under its key at once.

        When another process was faster, its entry stays and this one is dropped: they hold the same. Raises what `fill`
        raises, and OSError where the place takes nothing.
        """
        make_private(self.root)
        with FolderInWriting(self.root) as temporary:
            fill(temporary)
            manifest = {
                "key": key,
                "files": {str(file.relative_to(temporary)): _digest(file) for file in _files(temporary)},
            }
            _write_durably(temporary / MANIFEST, json.dumps(manifest))
            for path in temporary.rglob("*"):
                path.chmod(stat.S_IRWXU if path.is_dir() else stat.S_IRUSR | stat.S_IWUSR)
            try:
                temporary.rename(self.root / key)
            except OSError:
                if key not in self:
                    raise

    def unfinished(self, key: str) -> Path:
        """A folder for what shall outlive a killed run: whoever works on this entry again finds it, until `finish`.

        Raises OSError where the place takes nothing.
        """
        folder = self.root / _UNFINISHED / key
        make_private(folder)
        return folder

    def finish(self, key: str) -> None:
        """Remove what `unfinished` kept."""
        shutil.rmtree(self.root / _UNFINISHED / key, ignore_errors=True)

    def taken(self) -> tuple[int, int]:
        """How many entries there are, and their bytes."""
        sizes = [_size_bytes(entry) for entry in self.root.glob("*") if (entry / MANIFEST).exists()]
        return len(sizes), sum(sizes)

    def trim(self, limit_bytes: int, unused_seconds: float = 0.0) -> None:
        """Remove the entries that were used longest ago until the rest fits, and what was left unfinished weeks ago.

        What was used within the last unused_seconds stays, and what cannot be read or removed.
        """
        with suppress(OSError):
            self._trim(limit_bytes, unused_seconds)

    def _trim(self, limit_bytes: int, unused_seconds: float) -> None:
        if not self.root.is_dir():
            return
        sweep(self.root)
        for folder in (self.root / _UNFINISHED).glob("*"):
            used = _last_used(folder)
            if used is not None and time.time() - used > _UNFINISHED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        ages = [(used, entry) for entry in self.root.iterdir() if (used := _last_used(entry, MANIFEST)) is not None]
        total = 0
        for used, entry in sorted(ages, reverse=True):
            total += _size_bytes(entry)
            if total > limit_bytes and time.time() - used >= unused_seconds:
                shutil.rmtree(entry, ignore_errors=True)


def _last_used(folder: Path, holds: str = "") -> float | None:
    """Seconds since 1970; None when it is gone or lacks a file: another process renames and removes folders at any time."""
    try:
        return folder.stat().st_mtime if (folder / holds).exists() else None
    except OSError:
        return None


def _size_bytes(folder: Path) -> int:
    total = 0
    for file in _files(folder):
        with suppress(OSError):
            total += file.stat().st_size
    return total


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _digest(file: Path) -> str:
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_durably(path: Path, text: str) -> None:
    """The manifest is written last and reaches the disk before the rename makes the entry visible."""
    with path.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
