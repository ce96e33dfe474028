"""Latency to decide by in the middle of a run: in this process, interleaved. What is reported is measured by latency.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from compressctl.measure.alone import timing_alone

_SECONDS_EACH = 0.25
_ROUNDS = 15
_FEWEST_RUNS = 3


def medians_ms(calls: Sequence[Callable[[], object]], seconds_each: float = _SECONDS_EACH) -> tuple[float, ...]:
    """The median over rounds of each call's fastest run, in milliseconds; the calls take turns in every round.

    seconds_each: about how long each call is run in all. The fastest run of a round is the one that others disturbed least.
    """
    found: list[list[float]] = [[] for _ in calls]
    with timing_alone():
        runs = [_runs_per_round(call, seconds_each) for call in calls]
        for round_ in range(_ROUNDS):
            order = range(len(calls)) if round_ % 2 == 0 else reversed(range(len(calls)))
            for position in order:
                found[position].append(min(_seconds(calls[position]) for _ in range(runs[position])))
    return tuple(float(np.median(rounds) * 1e3) for rounds in found)


def _runs_per_round(call: Callable[[], object], seconds: float) -> int:
    call()
    once = min(_seconds(call), _seconds(call))
    return max(_FEWEST_RUNS, int(seconds / _ROUNDS / max(once, 1e-7)))


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
