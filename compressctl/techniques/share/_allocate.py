"""How many clusters each layer gets when all together may take so many bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressctl.numerics.knapsack import Limit, choose


@dataclass(frozen=True)
class Option:
    """One number of clusters for one layer: bits that it takes, and error in whatever unit, the same for all layers."""

    clusters: int
    bits: float
    error: float


def allocate(options: Mapping[str, Sequence[Option]], budget_bits: float) -> dict[str, Option] | None:
    """An option for each layer, together within the budget, with the least sum of errors; None where nothing fits."""
    costs = [[option.error for option in some] for some in options.values()]
    bits = [[option.bits for option in some] for some in options.values()]
    picked = choose(costs, [Limit(bits, budget_bits)])
    if picked is None:
        return None
    return {name: some[position] for (name, some), position in zip(options.items(), picked, strict=True)}
