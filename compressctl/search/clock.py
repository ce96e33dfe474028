"""How long candidates take, and whether the time that is left is enough for another one."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from compressctl.search.space import Candidate, Kind

_SPARE = 1.25
"""Times what a candidate of the same kind took: none is like another."""


class Clock:
    """seconds: that the whole search may take from now on, None without an end. reserved: of these, for the file in the end."""

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._seconds = seconds
        self._spent: dict[Kind, list[tuple[str, float]]] = defaultdict(list)
        self.reserved = 0.0

    def add(self, candidate: Candidate, seconds: float) -> None:
        """What one took."""
        self._spent[candidate.kind].append((candidate.family, seconds / candidate.weight))

    def estimate(self, candidate: Candidate) -> float | None:
        """Seconds, by the dearest so far of its family, or else of its kind; None where none was tried."""
        spent = self._spent.get(candidate.kind, ())
        own = [rate for family, rate in spent if family == candidate.family] or [rate for _, rate in spent]
        return _SPARE * candidate.weight * max(own) if own else None

    def estimate_of(self, candidates: Iterable[Candidate]) -> float:
        """Of all together, as far as can be told."""
        return sum(self.estimate(one) or 0.0 for one in candidates)

    @property
    def elapsed(self) -> float:
        return self._now() - self._began

    @property
    def left(self) -> float | None:
        """Seconds for candidates; None without an end."""
        return None if self._seconds is None else self._seconds - self.elapsed - self.reserved

    def limit(self, candidate: Candidate) -> float | None:
        """Seconds after which it is stopped: all that are left, half of them where nobody knows how long it takes."""
        left = self.left
        return left if left is None or self.estimate(candidate) is not None else left / 2

    def allows(self, candidate: Candidate) -> bool:
        """Whether it can end in time, as far as is known."""
        left, wanted = self.left, self.estimate(candidate)
        return left is None or (left > 0 and (wanted is None or wanted <= left))
