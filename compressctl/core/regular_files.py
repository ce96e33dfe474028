"""Files of others, opened for reading: regular ones alone, so that no pipe makes a command wait and no device feeds it forever."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import TextIO

from compressctl.core.errors import UsageError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(UsageError):
    """A path leads to a pipe, a socket or a device. It was not opened: that alone can wait, or change what it leads to."""


def check_regular(path: Path) -> os.stat_result:
    """What the system says of a file that can be read to its end. Links are followed.

    Raises NotRegularError, and OSError as opening it would: where nothing is there, where a folder is.
    """
    return _checked(os.stat(path), path)  # noqa: PTH116  a path's method says the same and takes no text


def open_regular(path: Path) -> io.BufferedReader:
    """Open the file for reading, as bytes. Raises what check_regular does."""
    check_regular(path)
    # Between the look and the opening it may have become something else, which must not wait for a writer.
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        _checked(os.fstat(opened), path)
    except BaseException:
        os.close(opened)
        raise
    return os.fdopen(opened, "rb")


def open_regular_text(path: Path, encoding: str = "utf-8", newline: str | None = None) -> TextIO:
    """The same as text. newline: as for `open`."""
    return io.TextIOWrapper(open_regular(path), encoding=encoding, newline=newline)


def read_regular(path: Path, most_bytes: int | None = None) -> bytes:
    """All of the file. Raises what check_regular does, and UsageError for more than most_bytes, after reading no more than that."""
    with open_regular(path) as file:
        if most_bytes is None:
            return file.read()
        # No more than there is: room for all that is asked for is taken at once.
        content = file.read(min(most_bytes, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > most_bytes:
        raise UsageError(f"{path} holds more than {most_bytes:,} bytes, which is too much for what it should be")
    return content


def _checked(found: os.stat_result, path: Path) -> os.stat_result:
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise NotRegularError(
            f"{path} is {_KINDS.get(kind, 'no regular file')}, not a file",
            hint="write what it gives into a file, and name that",
        )
    return found
