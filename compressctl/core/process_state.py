"""The state of this process that code of a recipe's author may change, put back when it comes back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_STDERR = 2


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Keep the working folder, the standard streams and their file descriptors. A fork that comes back ends here."""
    process, streams = os.getpid(), (sys.stdin, sys.stdout, sys.stderr)
    try:
        folder: str | None = os.getcwd()  # noqa: PTH109
    except OSError:
        folder = None
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(0)
        sys.stdin, sys.stdout, sys.stderr = streams
        open_standard_descriptors()
        if folder is not None:
            with suppress(OSError):
                os.chdir(folder)


def open_standard_descriptors() -> None:
    """Where one of their numbers is free, the next file that is opened gets it, and then whatever native code prints."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(opened, True)
    os.close(opened)
