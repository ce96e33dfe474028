"""How what runs is ended from outside: by signals, and by errors of the one who drives it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from compressctl.zoo.process import Surroundings

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopped_by_errors(around: Surroundings) -> Iterator[None]:
    """A pool waits for what runs in it, which may be an hour."""
    try:
        yield
    except BaseException:
        around.stop.set()
        raise


@contextmanager
def stopping_cleanly(around: Surroundings) -> Iterator[None]:
    """Ctrl-C, or another signal that ends programs, lets running jobs write what they have; a second one ends them at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        (around.stop_at_once if around.stop.is_set() else around.stop).set()

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
