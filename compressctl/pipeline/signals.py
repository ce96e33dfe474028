"""SIGTERM in a run: Ctrl-C's equal while it works, without effect once its end is decided."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends a run like Ctrl-C does, so that a cancelled CI job leaves its partial report."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ignore_sigterm() -> None:
    """From here on this process only leaves, with an exit code that is decided.

    A launcher that sees one process leave with an error sends SIGTERM to the others at once. Whoever takes a moment longer to
    leave would end by that signal instead of its own exit code, and the leader perhaps without its message.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
