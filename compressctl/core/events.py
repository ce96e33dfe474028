"""Progress as events: whoever works emits, whoever shows or stores listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compressctl.core.secrets import without_secrets

Listener = Callable[["Event"], None]


@dataclass(frozen=True)
class Event:
    """kind: "run.started", "step.started", "step.progress", "step.finished", "note", "warning", ... time: seconds since the epoch.

    step: the id of the step that emitted it. fields: ready for JSON.
    """

    kind: str
    time: float
    step: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


class Events:
    """Passes each event to every listener, in order. Steps get their own view by `within`."""

    def __init__(self, *listeners: Listener, step: str | None = None) -> None:
        self._listeners = listeners
        self._step = step

    def within(self, step: str) -> Events:
        """The same listeners, with every event marked as that step's."""
        return Events(*self._listeners, step=step)

    def emit(self, kind: str, **fields: Any) -> None:
        event = Event(kind, time.time(), self._step, without_secrets(fields))
        for listener in self._listeners:
            listener(event)

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total`, for a bar. Call as often as convenient; listeners thin it out."""
        self.emit("step.progress", what=what, done=done, total=total)

    def warn(self, message: str) -> None:
        """Something the user should read, which does not stop the run."""
        self.emit("warning", message=message)
