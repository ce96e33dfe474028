"""Trainings that last longer, where that is what stands in the way and nobody fixed how long they last: twice as long, and again, while each
doubling may still bring what is missing. Brief trials cannot tell it (Li et al. 2018, Hyperband, section 3), so it is seen by lengths that were tried."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compressctl.recipe.schema import Prefer
from compressctl.search.choose import choose, rank
from compressctl.search.document import Point
from compressctl.search.front import shortfalls
from compressctl.search.request import Goal
from compressctl.search.space import Candidate, Stage

_MOST_TIMES = 8
"""As long as a whole training, at most."""

_WITHOUT_EVIDENCE = 1.5
"""Times what may be lost, up to which a training of which only one length is known is doubled."""


@dataclass(frozen=True)
class _Known:
    """A length of a training. lost: times what is allowed; None where it was left out, or failed."""

    candidate: Candidate
    epochs: int
    point: Point | None
    lost: float | None


def longer(
    candidates: Sequence[Candidate],
    points: Mapping[str, Point],
    lost: Mapping[str, float | None],
    goal: Goal,
    limit_bytes: int | None,
    prefer: Prefer,
    whole: int,
) -> Candidate | None:
    """The training that is worth twice its length most: of those that keep everything but the loss, what would be handed over if it kept that too;
    where no file keeps everything, what loses least. None where none is worth it.

    lost: by candidate, times what is allowed. whole: epochs of a whole training.
    """
    best = choose(list(points.values()), goal, limit_bytes, prefer, is_judged=True)
    if best is not None and best.figures is not None and shortfalls(best.figures, goal, limit_bytes, is_judged=True):
        best = None
    found: list[tuple[tuple[float, ...], str, Candidate]] = []
    for lengths in _by_training(candidates, points, lost):
        last = lengths[-1]
        if last.point is None or last.point.figures is None or last.lost is None:
            continue
        figures = last.point.figures
        misses = shortfalls(figures, goal, limit_bytes, is_judged=True).keys() == {"drop"}
        fits = (
            whole <= last.epochs and 2 * last.epochs <= _MOST_TIMES * whole * 1.25
        )  # a quarter more with roundings in place
        if not (misses and fits and _may_hold(lengths)):
            continue
        if best is None or best.figures is None:
            found.append(((last.lost,), last.candidate.name, _doubled(lengths, whole)))
        elif (standing := rank(figures, prefer)) < rank(best.figures, prefer):
            found.append((standing, last.candidate.name, _doubled(lengths, whole)))
    return min(found, key=lambda entry: entry[:2])[2] if found else None


def _by_training(
    candidates: Sequence[Candidate], points: Mapping[str, Point], lost: Mapping[str, float | None]
) -> Iterator[list[_Known]]:
    """Lengths of the same training, the shortest first."""
    found: dict[str, list[_Known]] = defaultdict(list)
    for one in candidates:
        if one.training:
            apart = json.dumps([_with_epochs(stage, 0) for stage in one.stages], sort_keys=True, default=str)
            found[apart].append(_Known(one, _epochs(one), points.get(one.name), lost.get(one.name)))
    for lengths in found.values():
        yield sorted(lengths, key=lambda known: known.epochs)


def _may_hold(lengths: Sequence[_Known]) -> bool:
    """Whether twice the length would keep the loss if it brought as much as the doublings before it did each."""
    last = lengths[-1]
    assert last.lost is not None
    before = next((known for known in reversed(lengths[:-1]) if known.lost is not None), None)
    if before is None or before.lost is None or before.epochs == last.epochs:
        return last.lost <= _WITHOUT_EVIDENCE
    each = (before.lost - last.lost) / math.log2(last.epochs / before.epochs)
    return last.lost - each <= 1


def _doubled(lengths: Sequence[_Known], whole: int) -> Candidate:
    """Named by the shortest whole one."""
    last = lengths[-1].candidate
    first = next(known for known in lengths if known.epochs >= whole).candidate
    epochs = 2 * lengths[-1].epochs
    times = round(epochs / _epochs(first))
    return replace(
        last,
        name=f"{first.name}-{epochs}epochs",
        words=f"{first.words}; all of its training {times} times as long",
        stages=tuple(_with_epochs(stage, 2) for stage in last.stages),
        weight=2 * last.weight,
        after=(),
    )


def _epochs(one: Candidate) -> int:
    return sum(_of(stage) for stage in one.stages)


def _of(stage: Stage) -> int:
    return int(stage.get("epochs", 0)) + int(stage.get("finetune", {}).get("epochs", 0))


def _with_epochs(stage: Stage, times: int) -> dict[str, Any]:
    made = dict(stage)
    if "epochs" in made:
        made["epochs"] *= times
    if "finetune" in made:
        made["finetune"] = _with_epochs(made["finetune"], times)
    return made
