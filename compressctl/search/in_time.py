"""Tables are measured in a share of the time that a search has left, or not at all: they serve what comes afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from compressctl.core.errors import CompressctlError
from compressctl.core.events import Listener
from compressctl.pipeline.event_listeners import TimeLimit, is_time_over
from compressctl.search import words

_LATEST, _LEAST = 0.6, 20.0
"""Share of the time left after which all of it is given up, and the seconds that have to be left."""

_Looked = TypeVar("_Looked")


def in_time(
    left: float | None,
    share: Callable[[float], float],
    listeners: Sequence[Listener],
    measured: Callable[[float | None, Sequence[Listener]], _Looked],
) -> _Looked | str:
    """left: seconds; None for no end. share: of them, the seconds after which no further layer shall be looked at. measured: takes those, and
    who hears of it and may stop it. Returns what it gave, or why there is nothing. Raises KeyboardInterrupt where that was not the clock's.
    """
    if left is not None and left < _LEAST:
        return "there was no time left."
    most = None if left is None else share(left)
    latest = None if left is None or most is None else max(_LATEST * left, min(1.2 * most, 0.9 * left))
    limit: list[TimeLimit] = [] if latest is None else [TimeLimit(latest)]
    try:
        return measured(most, [*listeners, *limit])
    except (CompressctlError, KeyboardInterrupt) as error:
        if is_time_over(limit):
            return f"it was not done after {words.duration(latest or 0.0)}"
        if isinstance(error, KeyboardInterrupt):
            raise
        return error.message
