"""What one run's file has over another's, each with its interval. Plain text."""

from __future__ import annotations

import math

from compressctl.measure.results import Measurement, Score, Speedup
from compressctl.measure.speed_words import Scale, sentence, speedup_of
from compressctl.report.tables import size_change

_QUANTILE = 1.959964
_SPEED_UP = Scale("the speed-up", "less speed-up")


def size_between(first: Measurement, other: Measurement) -> str:
    return "the same" if first.total_bytes == other.total_bytes else size_change(first.total_bytes / other.total_bytes)


def score_between(first: Score | None, other: Score | None) -> str:
    """Points of accuracy, with the interval of two shares counted apart.

    Runs keep no predictions, so that samples cannot be paired: on the same test set the true interval is narrower. Of other
    metrics there is no interval for the same reason. Source: Newcombe 1998, "Interval estimation for the difference between
    independent proportions", method 10: it holds near 100 % too, where the textbook's interval shrinks to nothing.
    """
    if first is None or other is None or first.metric != other.metric:
        return ""
    change = other.value - first.value
    if first.metric != "accuracy":
        return f"{change:+.4f} (no interval: runs keep no predictions)"
    one, two = first.value / 100, other.value / 100
    (low_one, high_one), (low_two, high_two) = (_wilson(found.value / 100, found.samples) for found in (first, other))
    low = change - 100 * math.hypot(two - low_two, high_one - one)
    high = change + 100 * math.hypot(high_two - two, one - low_one)
    words = "no measurable change" if low <= 0 <= high else f"{change:+.2f} points"
    return f"{words} (95 %: {low:+.2f} to {high:+.2f})"


def _wilson(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share. Source: Wilson 1927."""
    square = _QUANTILE**2 / samples
    centre = (share + square / 2) / (1 + square)
    margin = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return centre - margin, centre + margin


def speed_between(first: Speedup | None, other: Speedup | None) -> str:
    """The ratio of two speed-ups, each against its own float model, as two independent measurements of logarithms.

    Their intervals need not be even about the value, so that each end takes what reaches that way: the other's upper and the
    first's lower part make the upper end. Source: Newcombe 1998, method 10, on logarithms.
    """
    if first is None or other is None:
        return ""
    ratio = other.ratio / first.ratio
    low = ratio / math.exp(math.hypot(math.log(other.ratio / other.low), math.log(first.high / first.ratio)))
    high = ratio * math.exp(math.hypot(math.log(other.high / other.ratio), math.log(first.ratio / first.low)))
    return sentence(speedup_of(ratio, low, high), _SPEED_UP)
