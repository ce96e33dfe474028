"""Hidden units that are active together, in groups of one size."""

from __future__ import annotations

import numpy as np

_ROUNDS = 12


def balanced_clusters(activity: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """(units,): the group of each, all groups of one size. activity: (samples, units), how strong each unit is.

    k-means on the units' activities over samples, each of length 1, with an assignment that fills all groups. Source: Zhang et al. 2022, MoEfication, section 3.2, which clusters
    rows of weights so, or the graph of activations together.
    """
    from scipy.optimize import linear_sum_assignment

    units = activity.shape[1]
    size = units // groups
    rows = activity.T.astype(np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rng = np.random.default_rng(seed)
    centres = rows[rng.permutation(units)[:groups]]
    found = np.zeros(units, np.int64)
    for _ in range(_ROUNDS):
        likeness = rows @ centres.T
        _, places = linear_sum_assignment(-np.repeat(likeness, size, axis=1))
        now = places // size
        if (now == found).all():
            break
        found = now
        centres = np.stack([rows[found == group].mean(0) for group in range(groups)])
        centres = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    return found
