"""How many clusters each layer gets when all together may take so many bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_UNITS = 4096
"""Parts of what the budget leaves above the smallest options, in which bits are counted, each option's rounded up."""


@dataclass(frozen=True)
class Option:
    """One number of clusters for one layer: bits that it takes, and error in whatever unit, the same for all layers."""

    clusters: int
    bits: float
    error: float


def allocate(options: Mapping[str, Sequence[Option]], budget_bits: float) -> dict[str, Option]:
    """An option for each layer: together within the budget, with the least sum of errors, by dynamic programming.

    Where even the smallest options exceed the budget those are given. A solution is exact up to 1/4096 of what there is to
    spend. Source: Kellerer, Pferschy & Pisinger 2004, "Knapsack Problems", section 11.5 (multiple choice).
    """
    smallest = {name: min(some, key=lambda option: (option.bits, option.error)) for name, some in options.items()}
    left = budget_bits - sum(option.bits for option in smallest.values())
    if left <= 0:
        return smallest
    unit = left / _UNITS
    least = np.zeros(_UNITS + 1)
    picks: list[np.ndarray] = []
    for name, some in options.items():
        costs = [int(np.ceil((option.bits - smallest[name].bits) / unit - 1e-9)) for option in some]
        tried = np.full((len(some), _UNITS + 1), np.inf)
        for row, (option, cost) in enumerate(zip(some, costs, strict=True)):
            if cost <= _UNITS:
                tried[row, cost:] = least[: _UNITS + 1 - cost] + option.error
        picks.append(tried.argmin(axis=0))
        least = tried.min(axis=0)
    chosen: dict[str, Option] = {}
    units = _UNITS
    for name, pick in zip(reversed(list(options)), reversed(picks), strict=True):
        chosen[name] = options[name][pick[units]]
        units -= int(np.ceil((chosen[name].bits - smallest[name].bits) / unit - 1e-9))
    return {name: chosen[name] for name in options}
