"""One option for each item, as for each layer: least cost under limits on sums and with options that need others, solved exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from compressctl.core.quiet import mute

_LARGEST_COST = 1e4
"""Costs are scaled to it, since HiGHS takes a plan for the best when nothing can be more than 1e-6 better."""


@dataclass(frozen=True)
class Limit:
    """amounts: by layer, what each of its options takes; they sum to at most `most`. Amounts may be negative."""

    amounts: Sequence[Sequence[float]]
    most: float


@dataclass(frozen=True)
class Link:
    """Every option of `item` needs one of `other`: the one that `needed` names in its place. Items by their places."""

    item: int
    other: int
    needed: Sequence[int]


def choose(costs: Sequence[Sequence[float]], limits: Sequence[Limit], links: Sequence[Link] = ()) -> list[int] | None:
    """The option of every layer with the least sum of costs, within all limits and links; None where no plan is.

    costs: by layer, of each of its options. The multiple-choice knapsack problem as an integer program: x[i, j] in {0, 1},
    sum_j x[i, j] = 1, solved by branch and cut (HiGHS). Source: Kellerer, Pferschy and Pisinger 2004, Knapsack Problems,
    chapter 11. A link adds, for every option k of the other item, sum over j that need it of x[i, j] = x[other, k], so that what two
    items decide together (the weights between two widths) is an item of its own and stays linear.
    """
    sizes = [len(options) for options in costs]
    flat = np.concatenate([np.asarray(options, float) for options in costs]) if sizes else np.zeros(0)
    if not sizes:
        return []
    largest = float(np.abs(flat).max()) or 1.0
    layer = np.repeat(np.arange(len(sizes)), sizes)
    one_each = csr_array((np.ones(len(flat)), (layer, np.arange(len(flat)))), shape=(len(sizes), len(flat)))
    same = [LinearConstraint(_linked(link, sizes), 0, 0) for link in links]
    rows = [np.concatenate([np.asarray(options, float) for options in limit.amounts]) for limit in limits]
    allowed = [limit.most for limit in limits]
    # What the solver takes for whole numbers may be off by 1e-6, so that a plan is checked, and the limit drawn in if need be.
    for _ in range(8):
        constraints = [LinearConstraint(one_each, 1, 1), *same]
        for row, most in zip(rows, allowed, strict=True):
            unit = float(np.abs(row).max()) or 1.0
            constraints.append(LinearConstraint(row[None] / unit, -np.inf, most / unit))
        with mute(1):  # HiGHS prints a line of its own where it mends a solution, whatever it is told
            found = milp(
                flat / largest * _LARGEST_COST,
                integrality=np.ones(len(flat)),
                bounds=Bounds(0, 1),
                constraints=constraints,
                options={"mip_rel_gap": 0.0},
            )
        if found.x is None:
            return None
        chosen = [int(np.argmax(found.x[layer == number])) for number in range(len(sizes))]
        over = [_sum(limit.amounts, chosen) - limit.most for limit in limits]
        if all(part <= 0 for part in over):
            return chosen
        allowed = [most - max(part, 0.0) * 1.01 for most, part in zip(allowed, over, strict=True)]
    return None


def _linked(link: Link, sizes: Sequence[int]) -> csr_array:
    """A row for each option of the other item, whose product with all x is 0 where the link holds."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    own, others = sizes[link.item], sizes[link.other]
    rows = np.concatenate([np.asarray(link.needed, int), np.arange(others)])
    columns = np.concatenate([starts[link.item] + np.arange(own), starts[link.other] + np.arange(others)])
    values = np.concatenate([np.ones(own), -np.ones(others)])
    return csr_array((values, (rows, columns)), shape=(others, int(starts[-1])))


def _sum(amounts: Sequence[Sequence[float]], chosen: Sequence[int]) -> float:
    return float(sum(options[option] for options, option in zip(amounts, chosen, strict=True)))
