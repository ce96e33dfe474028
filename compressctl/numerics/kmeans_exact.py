"""The best codebook of numbers on a line, by dynamic programming over where clusters end.

Source: Wang & Song 2011, "Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming".
"""

from __future__ import annotations

import numpy as np


def exact_codebook(values: np.ndarray, weight: np.ndarray, clusters: int) -> np.ndarray:
    """Entries, ascending, float64, with the least sum of weight x squared distance to the nearest.

    values: (n,) ascending. weight: (n,) greater than 0. All pairs of values are looked at: n is that of a histogram.
    """
    count = len(values)
    if count <= clusters:
        return np.asarray(values, np.float64)
    # Sums of squares of numbers near each other would cancel.
    middle = float(np.average(values, weights=weight))
    x = values.astype(np.float64) - middle
    sums = tuple(np.concatenate([[0.0], np.cumsum(weight * x**power)]) for power in (0, 1, 2))
    return middle + _means(sums, _starts(sums, count, clusters))


def _starts(sums: tuple[np.ndarray, ...], count: int, clusters: int) -> np.ndarray:
    """(clusters, n): where the last cluster of values 0 .. i begins."""
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


def _cost(sums: tuple[np.ndarray, ...], first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Squared distance of values first .. last to their mean."""
    weight, moment, square = (part[last + 1] - part[first] for part in sums)
    return np.asarray(np.maximum(square - moment**2 / weight, 0.0))


def _means(sums: tuple[np.ndarray, ...], starts: np.ndarray) -> np.ndarray:
    clusters, count = starts.shape
    entries, last = np.zeros(clusters), count - 1
    for cluster in reversed(range(clusters)):
        first = starts[cluster, last]
        entries[cluster] = (sums[1][last + 1] - sums[1][first]) / (sums[0][last + 1] - sums[0][first])
        last = first - 1
    return entries
