"""Which layers compute faster in float where they stand, found by timing whole files in turn.

Everything in integers is where it begins, and what it falls back to: nothing is taken for faster that was not so again, beyond the noise
that two builds of one file show in the same rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import exp, inf, isfinite, log
from statistics import mean, median

from compressctl.techniques.quantize._placement_costs import fit
from compressctl.techniques.quantize._regions import Placement, Regions

Timed = Callable[[Sequence[Placement]], Sequence[float]]
"""Latencies of files with these placements, in turn in one process, in milliseconds; infinite for a file that the runtime does not run."""

NOTHING: Placement = frozenset()

_WORTH_IT = 0.01
"""A placement must be faster by this share of the latency at least: less is noise, and floats take four times the bytes."""

_BRINGS = 0.003
"""What a group of layers in float must bring of the latency to stay there, timed in the same way."""

_NOISE = 2.5
"""A difference counts from so many times what two builds of one file differ by at the median."""

_ORDERS = ((False, True), (True, False), (False, True, True, False))
"""In which the chosen placement (True) must be faster than everything in integers each time, opened anew. Timings are kept by what was timed
in turn, so that the same order twice could be one measurement."""

_STALE = 2
"""Rounds of candidates without a faster one after which the search ends."""

_LARGEST_LOSS = 1.2
"""Log of the ratio from which everything in float is so slow that nothing is learned from its neighbours."""

_EXPLORE, _IMPROVE = 0.55, 0.85
"""Shares of the time limit after which exploring, and improving, ends."""


@dataclass(frozen=True)
class Found:
    """placement: what is faster in float, nothing where that is nothing. ratios: of the latencies with everything in integers to those with
    it, each time that both were opened anew. parts: its groups of layers that stand together, with the milliseconds that each brings,
    None where there was no time to see. integer_ms: with everything in integers, when it was last timed.
    noise: by how much of the latency two builds of one file differ, at the median. is_cut_short: whether the time limit ended it.
    """

    placement: Placement
    ratios: tuple[float, ...]
    parts: tuple[tuple[Placement, float | None], ...]
    integer_ms: float
    placements_timed: int
    noise: float
    seconds: float
    is_cut_short: bool

    @property
    def ratio(self) -> float | None:
        return median(self.ratios) if self.ratios else None


def search(
    regions: Regions,
    timed: Timed,
    seconds: float,
    together: int = 10,
    tell: Callable[[int, int], object] = lambda done, total: None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The fastest placement that was found within about `seconds`. together: files that are timed in one go, at least 4.

    tell: is called with the seconds that went by, and those allowed.
    """
    found = _Search(regions, timed, seconds, together, tell, clock)
    found.explore()
    best = found.improved()
    best, parts = found.without_idle(best)
    ratios = found.confirmed(best) if best else ()
    is_faster = bool(ratios) and min(ratios) > 1.0 and median(ratios) >= 1.0 + _WORTH_IT
    return Found(
        best if is_faster else NOTHING,
        ratios,
        tuple(parts) if is_faster else (),
        found.integer_ms,
        len(found.seen),
        found.noise,
        found.elapsed,
        found.is_cut_short,
    )


@dataclass
class _Search:
    """What was timed so far. times: by placement, relative to everything in integers. twins: differences of two builds of one file."""

    regions: Regions
    timed: Timed
    seconds: float
    together: int
    tell: Callable[[int, int], object]
    clock: Callable[[], float]
    times: list[tuple[Placement, float]] = field(default_factory=list)
    twins: list[float] = field(default_factory=list)
    seen: set[Placement] = field(default_factory=set)
    levels: dict[Placement, float] = field(default_factory=lambda: {NOTHING: 0.0})
    integer_ms: float = 0.0
    is_cut_short: bool = False
    _longest: float = 0.0

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def elapsed(self) -> float:
        return self.clock() - self.began

    @property
    def noise(self) -> float:
        return median(self.twins) if self.twins else 0.0

    @property
    def margin(self) -> float:
        return max(_WORTH_IT, _NOISE * self.noise)

    @property
    def room(self) -> int:
        """Candidates in one go, beside two builds of what they are compared with."""
        return max(2, self.together - 2)

    def explore(self) -> None:
        """Each kind of layers alone in float, all in float, each region; then each kind alone in integers."""
        regions = self.regions
        kinds, places = list(regions.kinds.values()), regions.parts(regions.everything)
        first = [regions.everything, *map(regions.closed, kinds)]
        if 1 < len(places) <= len(kinds):
            first += map(regions.closed, places)
        self._compare_all(first)
        slow = next((time for placement, time in self.times if placement == regions.everything), None)
        if slow is not None and log(slow) < _LARGEST_LOSS:
            self._compare_all(regions.closed(regions.everything - nodes) for nodes in kinds)

    def _compare_all(self, placements: Iterable[Placement]) -> None:
        fresh = [one for one in dict.fromkeys(placements) if one not in self.seen and one]
        for part in _batches(fresh, self.room):
            if not self._has_time(_EXPLORE):
                return
            self.compare(NOTHING, part)

    def _has_time(self, share: float) -> bool:
        """Whether another round ends before this share of the limit is over."""
        has = not self.seen or self.elapsed + self._longest <= share * self.seconds
        self.is_cut_short |= not has
        return has

    def compare(self, reference: Placement, candidates: Sequence[Placement]) -> list[float]:
        """Logarithms of how much faster each candidate is than the reference; timed between two builds of that."""
        began = self.elapsed
        first, *others, last = self.timed([reference, *candidates, reference])
        middle = (log(first) + log(last)) / 2
        self.twins.append(abs(log(first) - log(last)))
        gains = [middle - log(one) for one in others]
        level = self.levels[reference]
        known = [(placement, exp(level - gain)) for placement, gain in zip(candidates, gains, strict=True)]
        self.times += [entry for entry in known if isfinite(entry[1])]
        if reference == NOTHING:
            self.integer_ms = exp(middle)
        self.seen |= {reference, *candidates}
        self._longest = max(self._longest, self.elapsed - began)
        self.tell(int(self.elapsed), int(self.seconds))
        return gains

    def improved(self) -> Placement:
        """From everything in integers, rounds of candidates by the fit; a faster one is taken when it is so once more."""
        best, stale, tried = NOTHING, 0, {NOTHING}
        while stale < _STALE and self._has_time(_IMPROVE):
            candidates = self._candidates(best, tried)[: self.room]
            if not candidates:
                break
            tried |= set(candidates)
            gains = self.compare(best, candidates)
            stale += 1
            faster = [one for one, gain in zip(candidates, gains, strict=True) if gain > self.margin]
            if not faster:
                continue
            winner = max(zip(gains, candidates, strict=True), key=lambda pair: pair[0])[1]
            chosen = [winner, *(one for one in [self._joined(best, faster)] if one not in tried | {best})]
            again = self.compare(best, chosen)
            gain, choice = max(zip(again, chosen, strict=True), key=lambda pair: pair[0])
            if gain > self.margin:
                self.levels[choice] = self.levels[best] - gain
                best, stale = choice, 0
                tried.add(best)
        return best

    def _joined(self, best: Placement, faster: Sequence[Placement]) -> Placement:
        """What all of them change at once."""
        moved = frozenset().union(*(one ^ best for one in faster))
        return self.regions.closed(best ^ moved)

    def _candidates(self, best: Placement, tried: set[Placement]) -> list[Placement]:
        """What the fit takes for best, what was fastest so far, and steps from here, by what the fit expects of them."""
        costs = fit(self.regions, self.times)
        fastest = sorted(self.times, key=lambda entry: entry[1])[:2]
        here = costs.of(best)
        steps = [one for one in self._steps(best) if costs.of(one) < here + self.margin]
        steps.sort(key=lambda one: (costs.of(one), self.regions.ordered(one)))
        order = [*costs.best(), *(placement for placement, taken in fastest if taken < self._level(best)), *steps]
        return [one for one in dict.fromkeys(order) if one not in tried]

    def _level(self, placement: Placement) -> float:
        return exp(self.levels[placement])

    def _steps(self, best: Placement) -> list[Placement]:
        """A kind, a group or a layer to float, or back."""
        regions = self.regions
        whole = [*regions.kinds.values(), *regions.parts(regions.everything), *regions.parts(best)]
        moves = [*whole, *(frozenset((node,)) for node in regions.units)]
        found: dict[Placement, None] = {}
        for nodes in dict.fromkeys(moves):
            if nodes - best:
                found[regions.closed(best | nodes)] = None
            if nodes & best:
                found[regions.closed(best - nodes)] = None
        return list(found)

    def without_idle(self, best: Placement) -> tuple[Placement, list[tuple[Placement, float | None]]]:
        """Without the groups of layers that bring nothing in float, and what each of the others brings, in milliseconds."""
        parts = self.regions.parts(best)
        brings: dict[Placement, float] = {}
        for some in _batches(parts, self.room):
            if not self._has_time(1.0):
                break
            gains = self.compare(best, [self.regions.closed(best - part) for part in some])
            brings |= {part: -gain for part, gain in zip(some, gains, strict=True)}
        idle = [part for part, gain in brings.items() if gain < _BRINGS]
        if idle and len(idle) < len(parts):
            fewer = self.regions.closed(best - frozenset().union(*idle))
            (gain,) = self.compare(best, [fewer])
            if gain > -_BRINGS:
                self.levels[fewer] = self.levels[best] - gain
                best = fewer
        took = self._level(best) * self.integer_ms
        return best, [
            (part, took * (exp(brings[part]) - 1.0) if isfinite(brings.get(part, inf)) else None)
            for part in self.regions.parts(best)
        ]

    def confirmed(self, best: Placement) -> tuple[float, ...]:
        """How much faster it is than everything in integers, each time that both are opened anew."""
        ratios = []
        for order in _ORDERS:
            took = self.timed([best if is_chosen else NOTHING for is_chosen in order])
            chosen, integers = (
                [log(ms) for ms, is_chosen in zip(took, order, strict=True) if is_chosen is wanted]
                for wanted in (True, False)
            )
            self.integer_ms = exp(mean(integers))
            ratios.append(exp(mean(integers) - mean(chosen)))
        return tuple(ratios)


def _batches(placements: Sequence[Placement], size: int) -> list[Sequence[Placement]]:
    return [placements[start : start + size] for start in range(0, len(placements), size)]
