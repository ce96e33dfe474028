"""Latency and energy to decide by in the middle of a run: in this process, interleaved. What is reported is measured by latency.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.measure.alone import timing_alone

_SECONDS_EACH = 0.25
_COUNTED_SECONDS = 1.5
_ROUNDS = 15
_FEWEST_RUNS = 3


@dataclass(frozen=True)
class Timing:
    """ms: of each call the median over rounds of its fastest run, in milliseconds. spread: half the distance of the quartiles of the
    rounds against their median, of the call where that is most: how restless the machine was."""

    ms: tuple[float, ...]
    spread: float


def time_in_turn(calls: Sequence[Callable[[], object]], seconds_each: float = _SECONDS_EACH) -> Timing:
    """The calls take turns in every round.

    seconds_each: about how long each call is run in all. The fastest run of a round is the one that others disturbed least.
    """
    found: list[list[float]] = [[] for _ in calls]
    with timing_alone():
        runs = [_runs_per_round(call, seconds_each) for call in calls]
        for position in _turns(len(calls)):
            found[position].append(min(_seconds(calls[position]) for _ in range(runs[position])))
    low, middle, high = np.quantile(np.array(found), [0.25, 0.5, 0.75], axis=1)
    return Timing(tuple((middle * 1e3).tolist()), float(np.max((high - low) / (2 * middle))))


def joules_in_turn(
    calls: Sequence[Callable[[], object]], joules: Callable[[], float], seconds_each: float = _COUNTED_SECONDS
) -> tuple[float, ...]:
    """Of each call the median over rounds of what a run takes; the calls take turns.

    joules: since some moment. seconds_each: about how long each call is run in all: counters are read once a millisecond.
    """
    found: list[list[float]] = [[] for _ in calls]
    with timing_alone():
        runs = [_runs_per_round(call, seconds_each) for call in calls]
        for position in _turns(len(calls)):
            before = joules()
            for _ in range(runs[position]):
                calls[position]()
            found[position].append((joules() - before) / runs[position])
    return tuple(np.median(np.array(found), axis=1).tolist())


def _turns(count: int) -> Iterator[int]:
    """Whose turn it is, over all rounds, every other one backwards."""
    for round_ in range(_ROUNDS):
        yield from range(count) if round_ % 2 == 0 else reversed(range(count))


def _runs_per_round(call: Callable[[], object], seconds: float) -> int:
    call()
    once = min(_seconds(call), _seconds(call))
    return max(_FEWEST_RUNS, int(seconds / _ROUNDS / max(once, 1e-7)))


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
