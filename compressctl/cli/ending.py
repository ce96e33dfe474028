"""The end of the process: with the command's exit code, whatever author code does to it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from compressctl.cli.boundary import tell
from compressctl.core.errors import ExitCode


@contextmanager
def ends_as_decided() -> Iterator[None]:
    """`os._exit` in author code leaves a report, and no other exit code; threads and processes that it left are not waited for."""
    leave, process = os._exit, os.getpid()
    decided: int | None = None

    def exit_at_once(status: int) -> None:
        if os.getpid() != process:
            leave(status)
        if decided is not None:
            leave(decided)
        if threading.current_thread() is threading.main_thread():
            raise SystemExit(status)  # which ends like every error of author code: with a report
        tell("a thread of the recipe's code ended this process with os._exit: there is no report")
        leave(status or int(ExitCode.STAGE_FAILED))

    os._exit = exit_at_once  # type: ignore[assignment]
    try:
        yield
    except SystemExit as ended:
        decided = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if _would_wait():
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            leave(decided)
        raise


def _would_wait() -> bool:
    """Whether Python would wait at its end. Daemons among the processes are ended, as it would do."""
    children = sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else []
    for child in children:
        if child.daemon:
            child.kill()
    threads = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    return bool(threads or [child for child in children if not child.daemon])
