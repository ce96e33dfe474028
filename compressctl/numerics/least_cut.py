"""One of two sides for each node of a network, at the least sum of nodes' costs and of arcs between the sides: a minimum cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

Arc = tuple[int, int, float]
"""(a, b, cost): what it costs when a is on the second side and b on the first. Not negative."""


def least_cut(costs: Sequence[float], arcs: Sequence[Arc]) -> list[bool]:
    """Whether each node is on the second side, with the least sum of costs.

    costs: by node, what the second side costs more than the first; may be negative. A minimum s-t cut as a linear program: minimize
    costs @ x + weights @ y with y[a, b] >= x[a] - x[b], whose vertices are whole numbers (Kleinberg and Tardos 2005, Algorithm Design,
    section 7.10, project selection). Of several such cuts it is the one that the simplex method finds, always the same.
    Raises ValueError for an arc with a negative cost.
    """
    if any(cost < 0 for _, _, cost in arcs):
        raise ValueError("an arc costs less than nothing: this is no minimum cut")
    count, edges = len(costs), [arc for arc in arcs if arc[2] > 0 and arc[0] != arc[1]]
    if not count:
        return []
    rows = np.repeat(np.arange(len(edges)), 3)
    columns = [column for number, (a, b, _) in enumerate(edges) for column in (a, b, count + number)]
    signs = np.tile([1.0, -1.0, -1.0], len(edges))
    weights = np.concatenate([np.asarray(costs, float), [cost for _, _, cost in edges]])
    found = linprog(
        weights / (float(np.abs(weights).max()) or 1.0),
        A_ub=coo_array((signs, (rows, columns)), shape=(len(edges), count + len(edges))) if edges else None,
        b_ub=np.zeros(len(edges)) if edges else None,
        bounds=(0, 1),
        method="highs-ds",
    )
    return [bool(value > 0.5) for value in found.x[:count]]
