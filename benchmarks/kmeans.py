"""k-means of a million weights: ours beside scikit-learn's, interleaved, with what each reaches.

python benchmarks/kmeans.py [--weights 1000000] [--clusters 16] [--rounds 5]

Weights are drawn from a Laplace distribution, which trained layers resemble. Both give a codebook and an index for each weight,
on one thread. Inertia is the sum of squared distances; the least one is found by dynamic programming over the sorted weights.
Source: Gronlund et al. 2017, "Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D", section 2.2 (ends of clusters
are monotone, so that each half of the values searches only its half of the ends). All midpoints of one depth are searched together.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from compressctl.numerics.kmeans import kmeans, nearest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--exact", action="store_true", help="also the least inertia, which takes half a minute")
    asked = parser.parse_args()
    weights = np.random.default_rng(0).laplace(0, 0.05, asked.weights).astype(np.float32)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "compressctl, optimal": lambda: _ours(weights, asked.clusters, "optimal"),
        "compressctl, linear": lambda: _ours(weights, asked.clusters, "linear"),
        "compressctl, k-means++": lambda: _ours(weights, asked.clusters, "k-means++"),
        "scikit-learn, k-means++, one start": lambda: _theirs(weights, asked.clusters),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, np.ndarray] = {}
    with threadpool_limits(1):
        for _ in range(asked.rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                found[name] = way()
                seconds[name].append(time.perf_counter() - started)
    theirs = np.array(seconds["scikit-learn, k-means++, one start"])
    print("| way | ms, median | faster than scikit-learn (least to most of the rounds) | inertia |\n|---|---|---|---|")
    for name, entries in found.items():
        ratio = theirs / np.array(seconds[name])
        faster = f"{np.median(ratio):.0f}x ({ratio.min():.0f} to {ratio.max():.0f})"
        print(f"| {name} | {1e3 * np.median(seconds[name]):.0f} | {faster} | {_inertia(weights, entries):.3f} |")
    if asked.exact:
        values, counts = np.unique(weights, return_counts=True)
        print(f"| the least there is | | | {_least_inertia(values, counts, asked.clusters):.3f} |")


def _ours(weights: np.ndarray, clusters: int, init: str) -> np.ndarray:
    entries = kmeans(weights, clusters, init=init, rng=np.random.default_rng(0))  # type: ignore[arg-type]
    nearest(weights, entries)
    return entries


def _theirs(weights: np.ndarray, clusters: int) -> np.ndarray:
    fitted = KMeans(clusters, n_init=1, random_state=0).fit(weights[:, None])
    return np.sort(fitted.cluster_centers_[:, 0].astype(np.float64))


def _inertia(weights: np.ndarray, entries: np.ndarray) -> float:
    return float(((weights.astype(np.float64) - entries[nearest(weights, entries)]) ** 2).sum())


def _least_inertia(values: np.ndarray, counts: np.ndarray, clusters: int) -> float:
    """values: (n,) ascending. counts: (n,), how often each occurs. Time: clusters x n x log n."""
    x = values.astype(np.float64) - float(np.average(values, weights=counts))
    sums = tuple(np.concatenate([[0.0], np.cumsum(counts * x**power)]) for power in (0, 1, 2))
    cost = _cost(sums, np.zeros(len(x), np.int64), np.arange(len(x)))
    for cluster in range(1, clusters):
        cost = _one_more(cost, sums, cluster)
    return float(cost[-1])


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


if __name__ == "__main__":
    main()
