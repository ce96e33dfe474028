"""How long candidates take, and whether the time that is left is enough for another one."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from compressctl.search.space import Candidate, Kind

_SPARE = 1.25
"""Times what a candidate of the same kind took: none is like another."""


class _Spent(NamedTuple):
    """fixed: seconds that cutting, rounding and measuring took. rate: that training did, for each unit of weight; of what does not train all is."""

    family: str
    fixed: float
    rate: float


class Clock:
    """seconds: that the whole search may take from now on, None without an end. reserved: of these, for the file in the end."""

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._seconds = seconds
        self._spent: dict[Kind, list[_Spent]] = defaultdict(list)
        self.reserved = 0.0

    def add(self, candidate: Candidate, seconds: float, trained: float | None = None) -> None:
        """What one took. trained: seconds of these that grow with its weight, None for all. Of one whose training came from the cache nothing is learned."""
        if trained is None:
            trained = seconds
        if trained > 0 or not candidate.training:
            spent = _Spent(candidate.family, max(0.0, seconds - trained), trained / candidate.weight)
            self._spent[candidate.kind].append(spent)

    def estimate(self, candidate: Candidate) -> float | None:
        """Seconds, by the dearest so far of its family, or else of its kind; None where none was tried."""
        spent = self._spent.get(candidate.kind, ())
        own = [one for one in spent if one.family == candidate.family] or spent
        if not own:
            return None
        return _SPARE * (max(one.fixed for one in own) + candidate.weight * max(one.rate for one in own))

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
