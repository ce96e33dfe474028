"""What a ratio with its interval may be called: one place, so that words, values and intervals agree everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compressctl.measure.results import Verdict

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


def headline(ratio: float, low: float, high: float, scale: Scale = SPEED) -> str:
    """`1.72x faster`, `1.40x slower`, `at least 1.79x faster`, `no measurable change` or `too noisy to say`."""
    found = verdict(low, high)
    if found in ("no measurable change", "too noisy to say"):
        return found
    word = scale.better if found == "faster" else scale.worse
    if is_wide(low, high):
        return f"at least {_rounded_down(_turned(found, ratio, low, high)[1])}x {word}"
    return f"{times(_turned(found, ratio, low, high)[0])}x {word}"


def interval(ratio: float, low: float, high: float) -> str:
    """`1.39 to 1.41`, in the sense of `headline`: of 1 / ratio where that says slower."""
    _, lower, upper = _turned(verdict(low, high), ratio, low, high)
    return f"{times(lower)} to {times(upper)}"


def sentence(ratio: float, low: float, high: float, scale: Scale = SPEED) -> str:
    """`1.40x slower (95 %: 1.39 to 1.41)`."""
    return f"{headline(ratio, low, high, scale)} (95 %: {interval(ratio, low, high)})"


def times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def load_words(batch: int, threads: int) -> str:
    return f"batch {batch}, {threads or 'all'} thread{'s' if threads != 1 else ''}"


def _turned(found: Verdict, ratio: float, low: float, high: float) -> tuple[float, float, float]:
    """Value, lower and upper end, all three inverted where the word is slower."""
    return (1 / ratio, 1 / high, 1 / low) if found == "slower" else (ratio, low, high)


def _rounded_down(bound: float) -> str:
    """`at least 1.79x` of 1.798: what is promised is not rounded up."""
    return f"{math.floor(bound * 100 + 1e-9) / 100:.2f}" if bound < 100 else f"{math.floor(bound)}"
