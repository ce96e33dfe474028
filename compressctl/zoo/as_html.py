"""A leaderboard as one HTML file that opens offline: causes, changes, gain against fidelity, and a table that sorts and filters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressctl.report.as_html import page_part, page_template, script_hash
from compressctl.zoo import row_words
from compressctl.zoo.results import OUTCOME_WORDS, Outcome

if TYPE_CHECKING:
    from compressctl.zoo.leaderboard import Row

_WIDTH, _HEIGHT, _MARGIN = 640, 340, 46
_MOST_MESSAGES = 20
_MOST_DB, _LEAST_GAIN = 60.0, 0.5
"""Above that many decibels nobody sees a difference; identical outputs stand there too."""


@dataclass(frozen=True)
class Point:
    """A job in the picture: x and y in its pixels. is_best: no other job is both faster and nearer to its original."""

    row: Row
    x: float
    y: float
    is_best: bool


@dataclass(frozen=True)
class Failure:
    """A cause, and what its jobs said: (message, jobs), the most frequent first. unsaid: jobs whose messages are not among them."""

    outcome: Outcome
    jobs: int
    messages: list[tuple[str, list[str]]]
    unsaid: int


def render(name: str, rows: Sequence[Row], causes: Mapping[Outcome, int], changes: Sequence[str]) -> str:
    script = page_part("report.js")
    return page_template("leaderboard.html.jinja", Path(__file__).parent).render(
        name=name, rows=rows, causes=causes, words=OUTCOME_WORDS, changes=changes, cells=row_words, good=Outcome.GOOD,
        points=points(rows), failures=failures(rows, causes), width=_WIDTH, height=_HEIGHT, margin=_MARGIN, ticks=_ticks(rows), at_db=_at_db,
        style=page_part("report.css"), script=script, script_hash=script_hash(script),
    )  # fmt: skip


def failures(rows: Sequence[Row], causes: Mapping[Outcome, int]) -> list[Failure]:
    """By cause, and within one by message: a hundred models often fail in one way. A message is told without its own job's name."""
    found = []
    for outcome in (cause for cause in causes if cause is not Outcome.GOOD):
        said: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            if row.outcome == outcome:
                said[row.message.replace(row.job, "...")].append(row.job)
        messages = sorted(said.items(), key=lambda one: -len(one[1]))
        unsaid = sum(len(names) for _, names in messages[_MOST_MESSAGES:])
        found.append(Failure(outcome, causes[outcome], messages[:_MOST_MESSAGES], unsaid))
    return found


def points(rows: Sequence[Row]) -> list[Point]:
    """Of every job that was timed and compared: speed across on a scale of factors, decibels up."""
    shown = [
        row for row in rows if row.faster and row.sqnr_db is not None and row.outcome in (Outcome.GOOD, Outcome.MISSED)
    ]
    most = _most_gain(shown)
    best: set[str] = set()
    nearest = -math.inf
    for row in sorted(shown, key=lambda row: (-(row.faster or 0), -(row.sqnr_db or 0))):
        if (row.sqnr_db or 0) > nearest:
            best.add(row.job)
            nearest = row.sqnr_db or 0
    return [Point(row, _at_gain(row.faster or 1, most), _at_db(row.sqnr_db or 0), row.job in best) for row in shown]


def _most_gain(rows: Sequence[Row]) -> float:
    return max([2.0, *(row.faster or 1 for row in rows)]) * 1.1


def _at_gain(gain: float, most: float) -> float:
    share = math.log(max(gain, _LEAST_GAIN) / _LEAST_GAIN) / math.log(most / _LEAST_GAIN)
    return round(_MARGIN + share * (_WIDTH - 2 * _MARGIN), 1)


def _at_db(decibels: float) -> float:
    share = min(max(decibels, 0.0), _MOST_DB) / _MOST_DB
    return round(_HEIGHT - _MARGIN - share * (_HEIGHT - 2 * _MARGIN), 1)


def _ticks(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """Factors along the bottom."""
    most = _most_gain([row for row in rows if row.faster])
    return [(f"{gain:g}x", _at_gain(gain, most)) for gain in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16) if gain <= most]
