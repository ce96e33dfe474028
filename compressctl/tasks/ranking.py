"""Ranking and retrieval: what stands high in a list that a model orders. In percent."""

from __future__ import annotations

import math

import numpy as np

_AT_ONCE = 512


def ndcg_at_10(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Normalised discounted cumulative gain of each query's first ten, mean over the queries (Järvelin and Kekäläinen 2002).

    outputs: (n,) or (n, 1) scores. labels: (n, 2), the query and the relevance of each sample; a gain is 2**relevance - 1. Samples with
    equal scores share the mean of their gains. Queries without a relevant sample do not count; NaN where there is no other.
    """
    scores, queries, relevance = _asked(outputs, labels)
    found = []
    for query in np.unique(queries):
        gains, own = 2.0 ** relevance[queries == query] - 1, scores[queries == query]
        best = _discounted(np.sort(gains)[::-1])
        if best > 0:
            found.append(_discounted(_tied(gains, own)) / best)
    return 100 * float(np.mean(found)) if found else math.nan


def reciprocal_rank(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the queries of 1 / the place of the first relevant sample; equal scores count as placed before it.

    outputs, labels: as for `ndcg_at_10`. Queries without a relevant sample do not count.
    """
    scores, queries, relevance = _asked(outputs, labels)
    found = []
    for query in np.unique(queries):
        own, is_relevant = scores[queries == query], relevance[queries == query] > 0
        if is_relevant.any():
            best = own[is_relevant].max()
            found.append(1 / (1 + np.sum(own[~is_relevant] >= best)))
    return 100 * float(np.mean(found)) if found else math.nan


def recall_at_1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose nearest other sample by cosine has the same label. outputs: (n, size) embeddings. labels: (n,) integers.

    Samples whose label nobody shares do not count; NaN where there is no other.
    """
    return _recall(outputs, labels, 1)


def recall_at_10(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples of whose ten nearest others one has the same label; see `recall_at_1`."""
    return _recall(outputs, labels, 10)


def _recall(outputs: np.ndarray, labels: np.ndarray, first: int) -> float:
    rows, wanted = np.asarray(outputs, np.float64).reshape(len(outputs), -1), np.asarray(labels)
    if wanted.ndim != 1 or len(wanted) != len(rows):
        raise ValueError(f"retrieval takes one label for each sample, and the labels are {list(wanted.shape)}")
    if not np.isfinite(rows).all():
        return math.nan
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    found, counted, few = 0, 0, min(first, len(rows) - 1)
    for start in range(0, len(rows), _AT_ONCE):
        near = rows[start : start + _AT_ONCE] @ rows.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf
        same: np.ndarray = np.equal.outer(wanted[start : start + _AT_ONCE], wanted)
        same[np.arange(len(near)), np.arange(start, start + len(near))] = False
        shared = same.any(axis=1)
        nearest = np.argsort(-near, axis=1, kind="stable")[:, :few]
        hits: np.ndarray = np.logical_or.reduce(np.take_along_axis(same, nearest, axis=1), axis=1)
        found += int(hits[shared].sum())
        counted += int(shared.sum())
    return 100 * found / counted if counted else math.nan


def _asked(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, wanted = np.asarray(outputs, np.float64).reshape(len(outputs), -1), np.asarray(labels)
    if wanted.ndim != 2 or wanted.shape[1] != 2 or len(wanted) != len(scores) or scores.shape[1] != 1:
        raise ValueError(
            f"ranking takes one score for each sample, and labels of its query and its relevance, (n, 2); here they are "
            f"{list(outputs.shape)} and {list(wanted.shape)}"
        )
    return scores[:, 0], wanted[:, 0], wanted[:, 1].astype(np.float64)


def _discounted(gains: np.ndarray) -> float:
    return float(np.sum(gains[:10] / np.log2(np.arange(2, 2 + len(gains[:10])))))


def _tied(gains: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Gains in the order of falling scores; where scores are equal, the mean of theirs."""
    _, group = np.unique(-scores, return_inverse=True)
    means = np.bincount(group, gains) / np.bincount(group)
    return np.asarray(means[np.sort(group)])
