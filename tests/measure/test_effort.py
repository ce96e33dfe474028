"""How often a file is run to be timed: enough of what is fast, and no longer than a brief timing may take of what is slow."""

from typing import Any, cast

import pytest

from compressctl.measure.latency import QUICK, STANDARD, BenchmarkSettings, _warm_up
from compressctl.measure.served import Block, Served


class Taking:
    """Runs that take so many seconds by a clock that nobody waits for."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(self, runs: int) -> Block:
        return Block([self.seconds] * runs, 0.0, None)


def runs(seconds: float, effort: BenchmarkSettings) -> int:
    """Of one file, over all turns of all launches."""
    return _warm_up(cast(Served, Taking(seconds)), effort) * effort.launches * effort.rounds


@pytest.mark.parametrize("seconds", [0.3, 1.0, 10.0])
def test_what_is_slow_is_run_once_a_turn_where_it_is_timed_briefly(seconds: float) -> None:
    assert runs(seconds, QUICK) == QUICK.launches * QUICK.rounds


@pytest.mark.parametrize("seconds", [1e-4, 1e-3, 0.02])
def test_what_is_fast_is_run_as_often_as_before(seconds: float) -> None:
    everything: Any = {**vars(QUICK), "most_seconds": float("inf")}
    assert runs(seconds, QUICK) == runs(seconds, BenchmarkSettings(**everything))


def test_a_full_timing_has_its_runs_however_long_they_take() -> None:
    assert runs(1.0, STANDARD) >= STANDARD.runs
