"""Signals that end a process: Ctrl-C's equals while it works, without effect once its end is decided."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What a cancelled CI job, and a terminal that is closed, send."""


@contextmanager
def ending_signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command like Ctrl-C does: a run leaves its partial report, and all of them nothing temporary.

    The first one decides its end, and so does the end of this block: from then on they are ignored. A signal that this
    process was started to ignore, as `nohup` does, stays ignored. Forks of it, as a data loader's, end by such a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    is_decided, process = False, os.getpid()

    def interrupt(signum: int, frame: object) -> None:
        nonlocal is_decided
        if os.getpid() != process:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        elif not is_decided:
            is_decided = True
            raise KeyboardInterrupt

    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        ignore_ending_signals()


@contextmanager
def signals_restored() -> Iterator[None]:
    """When the block ends they mean again what they meant before it: the caller's program may go on for long."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_ending_signals() -> None:
    """From here on this process only leaves, with an exit code that is decided.

    A launcher that sees one process leave with an error sends SIGTERM to the others at once. Whoever takes a moment longer to
    leave would end by that signal instead of its own exit code, and the leader perhaps without its message.
    """
    if threading.current_thread() is threading.main_thread():
        # Python complains of a signal that came before it was ignored and is looked at afterwards: the first round is for those.
        for handler in (lambda signum, frame: None, signal.SIG_IGN):
            for number in _ENDING:
                signal.signal(number, handler)
