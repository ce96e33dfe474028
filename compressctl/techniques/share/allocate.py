"""How many clusters each layer gets when all together may take so many bits."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One number of clusters for one layer: bits that it takes, and error in whatever unit, the same for all layers."""

    clusters: int
    bits: float
    error: float


def allocate(options: Mapping[str, Sequence[Option]], budget_bits: float) -> dict[str, Option]:
    """An option for each layer: together within the budget, with the least sum of errors along the layers' lower hulls.

    Each layer begins with its smallest option; the step that lowers error most for its bits comes first. Where even the
    smallest options exceed the budget those are given. Source: Shoham & Gersho 1988, "Efficient bit allocation for an arbitrary
    set of quantizers" (hulls and marginal returns; optimal at every size that the merged hull passes through).
    """
    hulls = {name: _hull(some) for name, some in options.items()}
    chosen = dict.fromkeys(hulls, 0)
    spent = sum(hull[0].bits for hull in hulls.values())
    steps = [_step(name, hull, 0) for name, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(steps)
    while steps:
        _, name, position = heapq.heappop(steps)
        hull = hulls[name]
        more = hull[position + 1].bits - hull[position].bits
        if spent + more > budget_bits:
            continue  # a cheaper step of another layer may still fit
        spent, chosen[name] = spent + more, position + 1
        if position + 2 < len(hull):
            heapq.heappush(steps, _step(name, hull, position + 1))
    return {name: hulls[name][position] for name, position in chosen.items()}


def _step(name: str, hull: Sequence[Option], position: int) -> tuple[float, str, int]:
    low, high = hull[position], hull[position + 1]
    return -(low.error - high.error) / (high.bits - low.bits), name, position


def _hull(options: Sequence[Option]) -> list[Option]:
    """Options of the lower convex hull of error over bits: ascending bits, falling error, falling returns."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.bits, option.error)):
        if hull and option.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _return(hull[-2], hull[-1]) <= _return(hull[-2], option):
            hull.pop()
        if hull and option.bits == hull[-1].bits:
            continue
        hull.append(option)
    return hull


def _return(low: Option, high: Option) -> float:
    return (low.error - high.error) / max(high.bits - low.bits, 1e-12)
