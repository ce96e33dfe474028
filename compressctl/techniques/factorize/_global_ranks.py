"""Ranks of many layers at once: whatever costs least error for what it saves is given up first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from compressctl.layers.layer import Layer
from compressctl.techniques.factorize._split import Option, Split, options

Saves = Literal["macs", "parameters"]


@dataclass(frozen=True)
class Step:
    """One layer goes to a lower rank. saved: against what the layer had before the step. slope: error per unit saved."""

    option: Option
    saved: int
    slope: float


def path(splits: Mapping[str, Sequence[Split]], saves: Saves, round_to: int) -> list[Step]:
    """All steps from whole layers to the lowest ranks, the cheapest in error first. splits: of each layer, by its name.

    Only ranks on the lower convex hull of each layer's error over what is saved take part. The errors of layers are shares of
    their own outputs, which is how they add up here, and the states along the path are the best for what they save.
    """
    steps = [step for found in splits.values() for step in _hull(found, saves, round_to)]
    return sorted(steps, key=lambda step: step.slope)


def state(steps: Sequence[Step]) -> dict[str, Option]:
    """The layers by name after some steps; those without a step are whole."""
    return {step.option.split.layer.owner: step.option for step in steps}


def keeping(steps: Sequence[Step], total: int, ratio: float) -> int:
    """How many of the steps it takes until only a share `ratio` of `total` is left; all of them when none is enough."""
    left = total
    for count, step in enumerate(steps):
        if left <= ratio * total:
            return count
        left -= step.saved
    return len(steps)


def cost(of: Layer | Option, saves: Saves) -> int:
    """What a layer, or its pieces, cost in the unit that is to be saved."""
    return of.macs if saves == "macs" else of.parameters


def _hull(splits: Sequence[Split], saves: Saves, round_to: int) -> list[Step]:
    """The lower convex hull from the whole layer (nothing saved, no error) to the cheapest rank, as steps."""
    if not splits:
        return []
    whole = cost(splits[0].layer, saves)
    points: list[tuple[int, float, Option | None]] = [(0, 0.0, None)]
    found = [one for split in splits for one in options(split, round_to)]
    scored = ((whole - cost(one, saves), one.error, one) for one in found)
    for saved, error, one in sorted(scored, key=lambda point: (point[0], point[1])):
        if saved <= points[-1][0]:
            continue
        while len(points) > 1 and _slope(points[-2], (saved, error, one)) <= _slope(points[-2], points[-1]):
            points.pop()
        points.append((saved, error, one))
    steps = []
    for before, after in pairwise(points):
        assert after[2] is not None
        steps.append(Step(after[2], after[0] - before[0], _slope(before, after)))
    return steps


def _slope(before: tuple[int, float, Any], after: tuple[int, float, Any]) -> float:
    return (after[1] - before[1]) / (after[0] - before[0])
