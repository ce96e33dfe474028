"""Figures of a row in words; "" for what was not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressctl.zoo.leaderboard import Row


def smaller(row: Row) -> str:
    return "" if row.smaller is None else f"{row.smaller:.2f}x"


def faster(row: Row) -> str:
    """With its interval, which says whether it is a gain at all."""
    if row.faster is None or row.faster_low is None or row.faster_high is None:
        return ""
    return f"{row.faster:.2f}x ({row.faster_low:.2f} to {row.faster_high:.2f})"


def worst_output(row: Row) -> str:
    return "" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"


def score(row: Row) -> str:
    if row.score_before is None or row.score_after is None:
        return ""
    return f"{row.metric} {row.score_before:.2f} -> {row.score_after:.2f}"
