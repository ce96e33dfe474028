"""Files and folders that appear under their name whole or not at all. What a killed writer left is removed by the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from compressctl.core.errors import UsageError
from compressctl.core.failures import refusal

_PREFIX = ".writing-"


class FileInWriting:
    """A file beside its target, which takes the target's name when it is kept and is removed when it is not.

    Raises UsageError for a place that is none, MachineError for one that takes nothing, OSError when it is kept.
    """

    def __init__(self, target: Path, mode: int = 0o644) -> None:
        """mode: the file's permissions; a temporary file's own are the owner's alone."""
        self.target, self._mode = target, mode
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise UsageError(f"{target} is a device or a pipe, which a file would replace", hint="name a file")
        sweep(target.parent)
        try:
            handle, self._path = _new_file(target.parent)
        except OSError as error:
            error.filename = str(target)
            raise refusal(error) or UsageError(f"cannot write {target}: {error.strerror}") from None
        self.stream: BinaryIO = os.fdopen(handle, "w+b")

    def keep(self) -> None:
        """With everything on the disk: some say only then that it is full."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self._path.chmod(self._mode)
        try:
            self._path.replace(self.target)
        except OSError as error:
            error.filename = str(self.target)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        with suppress(OSError):  # what a full disk did not take is written once more at closing
            self.stream.close()


class FolderInWriting:
    """A folder inside another one, removed at the end with whatever was not moved out of it. Raises OSError."""

    def __init__(self, parent: Path) -> None:
        sweep(parent)
        self.path, self._lock = _new_folder(parent)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def write_whole(target: Path, parts: Iterable[bytes | memoryview], mode: int = 0o644) -> None:
    """Raises what FileInWriting raises; the target is then what it was before."""
    with FileInWriting(target, mode) as written:
        try:
            written.stream.writelines(parts)
            written.keep()
        except OSError as error:
            error.filename = error.filename or str(target)  # a full disk does not say of which file it took nothing
            raise


def sweep(folder: Path) -> None:
    """Remove what writers that died left in a folder."""
    with suppress(OSError):
        for left in folder.glob(f"{_PREFIX}*"):
            remove_unlocked(left)


def remove_unlocked(path: Path) -> None:
    """Remove a file or folder, unless a living process holds its lock."""
    held = lock(path)
    if held is None:
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
    os.close(held)


def lock(path: Path, *, waits: bool = False) -> int | None:
    """A file descriptor that holds the lock of a file or folder until it is closed or the process ends; None where another one does.

    None, too, where the file system has no locks, and of a link.
    """
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if _hold(opened, waits=waits):
        return opened
    os.close(opened)
    return None


def _hold(opened: int, *, waits: bool) -> bool:
    """Whether it holds its file's lock now."""
    try:
        import fcntl

        fcntl.flock(opened, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def _new_file(folder: Path) -> tuple[int, Path]:
    """Open and locked. Another process may take it for a dead one's before it is, and remove it."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
        _hold(handle, waits=True)
        if os.path.lexists(name):
            return handle, Path(name)
        os.close(handle)


def _new_folder(parent: Path) -> tuple[Path, int | None]:
    """The same for a folder, with its lock."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        held = lock(made, waits=True)
        if made.exists():
            return made, held
        if held is not None:
            os.close(held)
