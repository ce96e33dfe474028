"""Networks that one program over tables cuts to the size and the speed that are asked: solved, built untrained, measured, solved again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressctl.core.patterns import literal
from compressctl.search.document import Figures, Point
from compressctl.search.fit import CLOSE, SPARE_SIZE, SPARE_SPEED, first_line, too_much
from compressctl.search.narrow import Trim, as_cut
from compressctl.search.request import Goal
from compressctl.search.space import Candidate, Stage
from compressctl.search.width_program import Trimmed, WidthProgram
from compressctl.search.width_tables import WidthTables

_MOST_BUILT = 4
"""Networks of one kind that are built: every one tells how times and bytes add up."""

_ROUNDED = 8.0
"""Times what a distance of 4 bits costs, beside one of what is cut: training makes up for most of a cut, and for less of a rounding."""

_SLOPES = 0.25, 4.0
"""Between which what cuts save together is of what they save alone."""

NAMES = {False: "trimmed", True: "trimmed-w4a8"}


@dataclass(frozen=True)
class Trims:
    """shapes: one for weights of 8 bits, one for weights of 8 and 4, as far as there are such that keep both limits. refused: of the others, why."""

    shapes: tuple[Trim, ...]
    refused: Mapping[str, str]


def trims(
    tables: WidthTables,
    goal: Goal,
    limit_bytes: int | None,
    rounded: Point | None,
    build: Callable[[Candidate], Point | None],
) -> Trims:
    """rounded: the whole network in 8 bits. build: as in `fit.fit`."""
    shapes: list[Trim] = []
    refused: dict[str, str] = {}
    for has_four in (False, True):
        kind = _Kind(WidthProgram(tables, has_four=has_four), goal, limit_bytes, rounded, build)
        found = kind.best()
        if found is None:
            refused[NAMES[has_four]] = kind.why
        elif (found.cuts, found.four) not in [(one.cuts, one.four) for one in shapes]:
            shapes.append(found)
    return Trims(tuple(shapes), refused)


class _Kind:
    """Networks with weights of 8 bits, or of 8 and 4."""

    def __init__(
        self,
        program: WidthProgram,
        goal: Goal,
        limit_bytes: int | None,
        rounded: Point | None,
        build: Callable[[Candidate], Point | None],
    ) -> None:
        self._program, self._goal, self._limit, self._build = program, goal, limit_bytes, build
        self._beside = 0.0
        self._took: list[tuple[float, float]] = []
        if rounded is not None and rounded.figures is not None:
            self._beside = rounded.figures.total_bytes - program.whole_bytes
            self._learn(0.0, rounded.figures)
        self.why = ""

    def best(self) -> Trim | None:
        """The one with the least distance of those that keep both limits, each measured; None where none does."""
        holding: list[tuple[float, Trim]] = []
        tried: list[Trimmed] = []
        while len(tried) < _MOST_BUILT and (found := self._solved()) is not None and found not in tried:
            tried.append(found)
            shape = self._shape(found, len(tried))
            point = self._build(as_cut(shape))
            if point is None or point.figures is None:
                why = "there was no time to build and time another one" if point is None else first_line(point.reason)
                self.why = f"{self.why}; {why}" if self.why else why
                break
            over = too_much(point.figures, self._goal, self._limit)
            self.why = f"the last of {len(tried)} networks misses what is asked by {math.expm1(over):.0%}"
            self._beside = point.figures.total_bytes - found.bytes
            self._learn(found.saves_ms, point.figures)
            if over <= 0:
                holding.append((found.pruned + _ROUNDED * found.rounded, shape))
                if over > -CLOSE:
                    break
        return min(holding, key=lambda entry: entry[0])[1] if holding else None

    def _solved(self) -> Trimmed | None:
        most_bytes = None if self._limit is None else self._limit / SPARE_SIZE - self._beside
        saved = None
        if self._goal.speedup is not None:
            saved = least_saved(self._took, 1 / (SPARE_SPEED * self._goal.speedup), self._program.tables)
            if saved is None:
                self.why = "nothing was timed"
                return None
        found = self._program.solve(most_bytes=most_bytes, least_saved_ms=saved, rounded=_ROUNDED)
        if found is None:
            self.why = self.why or "by its tables nothing of it is small and fast enough"
        return found

    def _learn(self, saved_ms: float, figures: Figures) -> None:
        """What a file took, as a share of the float file's time, beside what the tables say that it saves."""
        if figures.speed is not None and figures.speed.ratio > 0:
            self._took.append((saved_ms, 1 / figures.speed.ratio))

    def _shape(self, found: Trimmed, number: int) -> Trim:
        blocks = f"{len(found.gone)} residual block{'s' if len(found.gone) > 1 else ''} fewer" if found.gone else ""
        percent = max(1, round(100 * found.share))
        words = ", ".join(part for part in (blocks, f"{percent} % of the arithmetic, chosen by tables") if part)
        name = NAMES[self._program.has_four] + (f"-{number}" if number > 1 else "")
        return Trim(name, tuple(stages_of(found, self._program.tables)), found.four, percent, words)


def least_saved(took: Sequence[tuple[float, float]], wanted: float, tables: WidthTables) -> float | None:
    """Milliseconds that the tables have to say are saved, for a file to take the wanted share of the float file's time; None where nothing was
    timed. took: of files, what the tables say they save, and the share that they took.

    A line through what files took, since they tell what the tables do not: how cuts add up, and what the whole network takes now.
    """
    if tables.float_ms is None or tables.integer_ms is None:
        return None
    shares = [share for _, share in took] or [tables.integer_ms / tables.float_ms]
    saved = [by for by, _ in took] or [0.0]
    spread = float(np.var(saved))
    slope = 1.0 / tables.float_ms
    if spread > 0:
        fitted = -float(np.mean((np.array(saved) - np.mean(saved)) * (np.array(shares) - np.mean(shares)))) / spread
        slope = min(max(fitted, _SLOPES[0] * slope), _SLOPES[1] * slope)
    return (float(np.mean(shares)) - wanted) / slope + float(np.mean(saved))


def stages_of(found: Trimmed, tables: WidthTables) -> Iterator[Stage]:
    """What makes such a network, as a recipe says it."""
    for number, block in enumerate(found.gone):
        name = f"shorter{number + 1}" if number else "shorter"
        yield {"id": name, "use": "prune.layers", "match": literal(block), "if_slower": "keep"}
    if not found.kept:
        return
    overrides: list[dict[str, Any]] = [{"match": "*", "keep": 1.0}]
    for group in tables.groups:
        if group.name in found.kept:
            # One that is still there: all that give the channels are cut with it.
            layer = next(one for one in group.layers if not any(one.startswith(f"{block}.") for block in found.gone))
            share = found.kept[group.name] / group.options[0].channels
            overrides.append({"match": literal(layer), "keep": share})
    yield {"id": "narrow", "use": "prune.channels", "keep": 1.0, "if_slower": "keep", "overrides": overrides}
