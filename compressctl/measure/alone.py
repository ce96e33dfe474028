"""Timing alone: one timing at a time on a machine, and what compresses beside it stands still meanwhile.

Whoever times binds an abstract Unix socket, which the kernel frees when the process ends, however it ends, and which leaves no file. Those who
have jobs that can be stopped (`zoo/pauses.py`) listen at others, and stop them while a connection of the one who times is open.
Each user has sockets of their own, each network namespace too: containers do not wait for one another, and neither do processes with different
values of COMPRESSCTL_TIMING_GROUP, as for halves of a machine that share nothing. Systems without such sockets have no lock.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

MOST_DRIVERS = 1024
"""So many programs of one user may have jobs to stop: on a node of a cluster there is one for each job. To ask where none is takes microseconds."""

_GROUP = "COMPRESSCTL_TIMING_GROUP"
_WAIT, _LONGEST_WAIT, _LONGEST_ANSWER = 0.02, 600.0, 5.0
_held = 0


def is_possible() -> bool:
    """Whether this system has such sockets."""
    return sys.platform == "linux"


def address(name: str) -> str:
    """Of one of this user's sockets."""
    return f"\0compressctl-{os.getuid()}-{os.environ.get(_GROUP, '')[:40]}-{name}"


@contextmanager
def timing_alone() -> Iterator[float]:
    """The seconds that were waited for others. Whoever times already does not wait for itself.

    After ten minutes it goes on beside the other: one that was stopped by hand would hold it forever.
    """
    global _held
    if _held or not is_possible():
        yield 0.0
        return
    began = time.monotonic()
    with ExitStack() as stack:
        lock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        while not _is_bound(lock) and time.monotonic() - began < _LONGEST_WAIT:
            time.sleep(_WAIT)
        for number in range(MOST_DRIVERS):
            _stop_jobs_of(number, stack)
        _held += 1
        try:
            yield time.monotonic() - began
        finally:
            _held -= 1


def _is_bound(lock: socket.socket) -> bool:
    try:
        lock.bind(address("timing"))
    except OSError:
        return False
    return True


def _stop_jobs_of(number: int, stack: ExitStack) -> None:
    """The jobs of one driver, if there is one, until the stack is left. One that does not answer is not waited for."""
    driver = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        driver.settimeout(_LONGEST_ANSWER)
        driver.connect(address(f"jobs-{number}"))
    except OSError:
        driver.close()
        return
    stack.enter_context(driver)
    with suppress(OSError):
        driver.recv(1)
