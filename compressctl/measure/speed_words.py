"""What a ratio with its interval may be called: one place, so that words, values and intervals agree everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compressctl.measure.results import Speedup, Verdict

WIDEST = 1.5
"""Upper over lower end of an interval beyond which no single value is told: the bound is, or that it is too noisy to say."""

_LEAST_SAID = 1.01
"""A bound below this, as in "at least 1.00x faster", says nothing."""


@dataclass(frozen=True)
class Scale:
    """The words for a ratio above 1 and for one below."""

    better: str
    worse: str


SPEED = Scale("faster", "slower")
ENERGY = Scale("thriftier", "more energy")


def is_wide(low: float, high: float) -> bool:
    return not high <= WIDEST * low


def verdict(low: float, high: float) -> Verdict:
    """low, high: the 95 % interval of before over after, so that above 1 is faster."""
    least = _LEAST_SAID if is_wide(low, high) else 1.0
    if low > least:
        return "faster"
    if high < 1 / least:
        return "slower"
    return "too noisy to say" if is_wide(low, high) else "no measurable change"


def speedup_of(ratio: float, low: float, high: float, alternating: float | None = None) -> Speedup:
    return Speedup(ratio=ratio, low=low, high=high, verdict=verdict(low, high), alternating=alternating)


def headline(speed: Speedup, scale: Scale = SPEED) -> str:
    """`1.72x faster`, `1.40x slower`, `at least 1.79x faster`, `no measurable change` or `too noisy to say`."""
    found = verdict(speed.low, speed.high)
    if found in ("no measurable change", "too noisy to say"):
        return found
    word = scale.better if found == "faster" else scale.worse
    ratio, lower, _ = _turned(speed)
    return f"at least {_rounded_down(lower)}x {word}" if is_wide(speed.low, speed.high) else f"{times(ratio)}x {word}"


def in_a_cell(speed: Speedup) -> str:
    """What `headline` says where there is little room, always as original / compressed: `1.72x`, `from 1.79x`, `to 0.91x`, `no change`,
    `too noisy`."""
    found = verdict(speed.low, speed.high)
    if found in ("no measurable change", "too noisy to say"):
        return {"no measurable change": "no change", "too noisy to say": "too noisy"}[found]
    if not is_wide(speed.low, speed.high):
        return f"{times(speed.ratio)}x"
    return f"from {_rounded_down(speed.low)}x" if found == "faster" else f"to {times(speed.high)}x"


def interval(speed: Speedup) -> str:
    """`1.39 to 1.41`, in the sense of `headline`: of 1 / ratio where that says slower. Rounded outwards, so that it holds what it is the interval of."""
    _, lower, upper = _turned(speed)
    return f"{_rounded_down(lower)} to {_rounded_up(upper)}"


def sentence(speed: Speedup, scale: Scale = SPEED) -> str:
    """`1.40x slower (95 %: 1.39 to 1.41)`."""
    return f"{headline(speed, scale)} (95 %: {interval(speed)})"


def times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def load_words(batch: int, threads: int) -> str:
    return f"batch {batch}, {threads or 'all'} thread{'s' if threads != 1 else ''}"


def _turned(speed: Speedup) -> tuple[float, float, float]:
    """Value, lower and upper end, all three inverted where the word is slower."""
    is_slower = verdict(speed.low, speed.high) == "slower"
    return (1 / speed.ratio, 1 / speed.high, 1 / speed.low) if is_slower else (speed.ratio, speed.low, speed.high)


def _rounded_down(bound: float) -> str:
    """`at least 1.79x` of 1.798: what is promised is not rounded up."""
    return f"{math.floor(bound * 100 + 1e-9) / 100:.2f}" if bound < 100 else f"{math.floor(bound)}"


def _rounded_up(bound: float) -> str:
    return f"{math.ceil(bound * 100 - 1e-9) / 100:.2f}" if bound < 100 else f"{math.ceil(bound)}"
