"""What one run's file has over another's, each with its interval. Plain text."""

from __future__ import annotations

import math

from compressctl.report.document import FilePart, ScorePart, SpeedPart
from compressctl.report.tables import size_change

_QUANTILE = 1.96


def size_between(first: FilePart, other: FilePart) -> str:
    return "the same" if first.total_bytes == other.total_bytes else size_change(first.total_bytes / other.total_bytes)


def score_between(first: ScorePart | None, other: ScorePart | None) -> str:
    """Points of accuracy, with the interval of two shares counted apart.

    Runs keep no predictions, so that samples cannot be paired: on the same test set the true interval is narrower.
    """
    if first is None or other is None or first.metric != other.metric:
        return ""
    change = other.value - first.value
    if first.metric != "accuracy":
        return f"{change:+.4f}"
    shares = [(found.value / 100, found.samples) for found in (first, other)]
    margin = 100 * _QUANTILE * math.sqrt(sum(share * (1 - share) / samples for share, samples in shares))
    return f"{change:+.2f} points (95 %: {change - margin:+.2f} to {change + margin:+.2f})"


def speed_between(first: SpeedPart | None, other: SpeedPart | None) -> str:
    """The ratio of two speed-ups, each against its own float model, as two independent measurements of logarithms."""
    if first is None or other is None:
        return ""
    centre = math.log(other.ratio / first.ratio)
    margin = math.hypot(*(math.log(found.high / found.low) / 2 for found in (first, other)))
    low, high = math.exp(centre - margin), math.exp(centre + margin)
    words = "no measurable change" if low <= 1 <= high else f"{math.exp(centre):.2f}x the speed-up"
    return f"{words} (95 %: {low:.2f} to {high:.2f})"
