"""Where events go: a file of JSON lines, plain lines, and a collector of warnings."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from compressctl.core.errors import MachineError, TimeIsUpError
from compressctl.core.events import Event, Listener
from compressctl.core.secrets import for_others, without_secrets


class EventFile:
    """Appends every event to a file as one JSON line, written at once, so that a killed run leaves what happened.

    A line that the disk does not take whole is taken back, and its error is raised. Raises MachineError when the file is gone.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def __call__(self, event: Event) -> None:
        line = f"{as_json(event, for_others)}\n".encode(errors="replace")
        now = os.fstat(self._file.fileno())
        if now.st_nlink == 0:
            raise MachineError(f"{Path(self._file.name).parent} was removed while the run worked in it")
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        except OSError:
            self._file.truncate(now.st_size)
            raise

    def close(self) -> None:
        self._file.close()


class TimeLimit:
    """Raises TimeIsUpError with the first event after its end, once. Stages, epochs, steps of searches and scored
    batches each tell of theirs."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.is_over = False
        """Whether it has ended something."""

    def __call__(self, event: Event) -> None:
        if time.monotonic() > self._end:
            self._raise()

    @contextmanager
    def ends_silence(self) -> Iterator[None]:
        """Raise it within the block, too, where nothing tells of its work: an author's function that does not come back.

        In the main thread, where signals arrive, and once; native code is left to come back.
        """
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            yield
            return

        def ring(number: int, frame: object) -> None:
            self._raise()

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(self._end - time.monotonic(), 0) + _SILENT_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before or signal.SIG_DFL)

    def _raise(self) -> None:
        if not self.is_over:
            self.is_over = True
            raise TimeIsUpError


def is_time_over(listeners: Sequence[Listener]) -> bool:
    """Whether a limit among them has raised: what it raised may come out as something else."""
    return any(isinstance(one, TimeLimit) and one.is_over for one in listeners)


_SILENT_SECONDS = 5.0
"""Beyond its end, for what is about to tell that it is done."""


@contextmanager
def ends_silence(listeners: Sequence[Listener]) -> Iterator[None]:
    """As TimeLimit's, where one of them is one."""
    with ExitStack() as limits:
        for listener in listeners:
            if isinstance(listener, TimeLimit):
                limits.enter_context(listener.ends_silence())
        yield


class Warnings:
    """Remembers warnings for the report."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, event: Event) -> None:
        if event.kind == "warning":
            self.messages.append(str(event.fields["message"]))


class JsonLines:
    """One event per line on a stream, nothing else."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        _print(as_json(event), self._stream)


class PlainLines:
    """One readable line per step and note; progress at most every few seconds."""

    def __init__(self, stream: IO[str], every_seconds: float = 5.0) -> None:
        self._stream = stream
        self._every = every_seconds
        self._last = -every_seconds

    def __call__(self, event: Event) -> None:
        line = plain_line(event)
        if line is None:
            return
        if event.kind == "step.progress":
            now = time.monotonic()
            if now - self._last < self._every:
                return
            self._last = now
        _print(f"{time.strftime('%H:%M:%S', time.localtime(event.time))}  {line}", self._stream)


def _print(line: str, stream: IO[str]) -> None:
    """A reader that went away (`| head`), or a full disk, does not end a run that still has a report to write."""
    with suppress(OSError, ValueError):
        print(line, file=stream, flush=True)


def plain_line(event: Event) -> str | None:
    """What a person reads about an event, None when there is nothing to read."""
    step, fields = event.step or "", event.fields
    match event.kind:
        case "run.started":
            return f"run {fields['name']} in {fields['folder']}"
        case "step.started":
            return f"{step}: {fields['use']}"
        case "step.finished":
            return f"{step}: {'from the cache' if fields.get('cached') else f'''done in {fields['seconds']:.1f} s'''}"
        case "step.progress":
            return f"{step}: {fields['what']} {fields['done']}/{fields['total']}"
        case "note":
            return f"{step}: {fields['message']}"
        case "warning":
            return f"warning: {fields['message']}"
        case _:
            return None


def as_json(event: Event, told: Callable[[Any], Any] = without_secrets) -> str:
    fields = {"kind": event.kind, "time": event.time, "step": event.step, **event.fields}
    return json.dumps(told(fields), default=str)
