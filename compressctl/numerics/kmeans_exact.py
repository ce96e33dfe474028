"""The best codebook of numbers on a line, by dynamic programming over where clusters end.

Source: Wang & Song 2011, "Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming"; Gronlund et al. 2017,
"Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D", section 2.2 (ends of clusters are monotone, so that each
half of the values searches only its half of the ends). All midpoints of one depth are searched together.
"""

from __future__ import annotations

import numpy as np

_FEW = 512
"""Values of which all pairs are looked at."""


def exact_codebook(values: np.ndarray, weight: np.ndarray, clusters: int) -> np.ndarray:
    """Entries, ascending, float64, with the least sum of weight x squared distance to the nearest.

    values: (n,) ascending. weight: (n,) greater than 0. Time: clusters x n x log n.
    """
    count = len(values)
    if count <= clusters:
        return np.asarray(values, np.float64)
    # Sums of squares of numbers near each other would cancel.
    middle = float(np.average(values, weights=weight))
    x = values.astype(np.float64) - middle
    sums = tuple(np.concatenate([[0.0], np.cumsum(weight * x**power)]) for power in (0, 1, 2))
    starts = _few(sums, count, clusters) if count <= _FEW else _many(sums, count, clusters)
    return middle + _means(sums, starts)


def _few(sums: tuple[np.ndarray, ...], count: int, clusters: int) -> np.ndarray:
    """(clusters, n): where the last cluster of values 0 .. i begins. All pairs at once, which is faster for few values."""
    first, last = np.arange(count)[:, None], np.arange(count)[None]
    alone = np.where(first <= last, _cost(sums, np.minimum(first, last), last), np.inf)
    cost, starts = alone[0], np.zeros((clusters, count), np.int64)
    for cluster in range(1, clusters):
        total = alone[1:] + cost[:-1, None]
        starts[cluster] = 1 + total.argmin(axis=0)
        cost = np.concatenate([[0.0], total.min(axis=0)[1:]])
        # With as many clusters as values each has its own.
        starts[cluster, : cluster + 1] = np.arange(cluster + 1)
        cost[: cluster + 1] = 0.0
    return starts


def _many(sums: tuple[np.ndarray, ...], count: int, clusters: int) -> np.ndarray:
    """The same by divide and conquer."""
    cost = _cost(sums, np.zeros(count, np.int64), np.arange(count))
    starts = np.zeros((clusters, count), np.int64)
    for cluster in range(1, clusters):
        cost, starts[cluster] = _one_more(cost, sums, cluster)
    return starts


def _cost(sums: tuple[np.ndarray, ...], first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Squared distance of values first .. last to their mean."""
    weight, moment, square = (part[last + 1] - part[first] for part in sums)
    return np.asarray(np.maximum(square - moment**2 / weight, 0.0))


def _one_more(before: np.ndarray, sums: tuple[np.ndarray, ...], cluster: int) -> tuple[np.ndarray, np.ndarray]:
    """The least cost of values 0 .. i in one cluster more, and where its last cluster begins.

    before: the same with as many as there were.
    """
    count = len(before)
    cost, start = before.copy(), np.arange(count)
    start[:cluster] = np.arange(cluster)
    cost[:cluster] = 0.0
    # Segments of values whose best starts are still to be found, and between which starts those lie.
    low, high = np.array([cluster]), np.array([count - 1])
    least, most = np.array([cluster]), np.array([count - 1])
    while low.size:
        middle = (low + high) // 2
        reach = np.minimum(most, middle)
        tried = reach - least + 1
        ends = np.cumsum(tried)
        owner = np.repeat(np.arange(low.size), tried)
        begin = np.arange(ends[-1]) - (ends - tried)[owner] + least[owner]
        costs = before[begin - 1] + _cost(sums, begin, middle[owner])
        best = np.minimum.reduceat(costs, ends - tried)
        found = _first_equal(costs, best[owner], owner, low.size)
        cost[middle], start[middle] = best, begin[found]
        left, right = low < middle, middle < high
        low, high, least, most = (
            np.concatenate([low[left], middle[right] + 1]),
            np.concatenate([middle[left] - 1, high[right]]),
            np.concatenate([least[left], begin[found][right]]),
            np.concatenate([begin[found][left], most[right]]),
        )
    return cost, start


def _first_equal(costs: np.ndarray, best: np.ndarray, owner: np.ndarray, owners: int) -> np.ndarray:
    """The first position of each owner's best."""
    equal = np.flatnonzero(costs == best)
    _, first = np.unique(owner[equal], return_index=True)
    assert first.size == owners
    return equal[first]


def _means(sums: tuple[np.ndarray, ...], starts: np.ndarray) -> np.ndarray:
    clusters, count = starts.shape
    entries, last = np.zeros(clusters), count - 1
    for cluster in reversed(range(clusters)):
        first = starts[cluster, last]
        entries[cluster] = (sums[1][last + 1] - sums[1][first]) / (sums[0][last + 1] - sums[0][first])
        last = first - 1
    return entries
