"""k-means of a million weights: ours beside scikit-learn's, interleaved, with what each reaches.

python benchmarks/kmeans.py [--weights 1000000] [--clusters 16] [--rounds 5]

Weights are drawn from a Laplace distribution, which trained layers resemble. Both give a codebook and an index for each weight,
on one thread. Inertia is the sum of squared distances; the least one is found by dynamic programming over the sorted weights.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from compressctl.numerics.kmeans import kmeans, nearest
from compressctl.numerics.kmeans_exact import exact_codebook


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
        print(f"| the least there is | | | {_inertia(weights, exact_codebook(values, counts, asked.clusters)):.3f} |")


def _ours(weights: np.ndarray, clusters: int, init: str) -> np.ndarray:
    entries = kmeans(weights, clusters, init=init, rng=np.random.default_rng(0))  # type: ignore[arg-type]
    nearest(weights, entries)
    return entries


def _theirs(weights: np.ndarray, clusters: int) -> np.ndarray:
    fitted = KMeans(clusters, n_init=1, random_state=0).fit(weights[:, None])
    return np.sort(fitted.cluster_centers_[:, 0].astype(np.float64))


def _inertia(weights: np.ndarray, entries: np.ndarray) -> float:
    return float(((weights.astype(np.float64) - entries[nearest(weights, entries)]) ** 2).sum())


if __name__ == "__main__":
    main()
