"""k-means of many short rows at once, each with a codebook of its own."""

from __future__ import annotations

import numpy as np

_ITERATIONS = 30
_BINS = 48
"""Runs of neighbouring values that stay together while Lloyd's start is looked for."""

_CHUNK = 1 << 18
"""Values times entries that are compared at once."""


def kmeans_rows(values: np.ndarray, clusters: int, importance: np.ndarray | None = None) -> np.ndarray:
    """(rows, clusters) float64, ascending in each row: codebooks for (rows, columns) values.

    importance: of the values' shape, not negative; None: all alike. Where a row has fewer different values entries repeat.
    """
    step = max(1, _CHUNK // max(1, values.shape[1] * clusters, _BINS**2))
    parts = []
    for begin in range(0, len(values), step):
        rows = values[begin : begin + step].astype(np.float64)
        heavy = np.ones_like(rows) if importance is None else importance[begin : begin + step].astype(np.float64)
        parts.append(_best(rows, heavy, clusters))
    return np.concatenate(parts) if parts else np.zeros((0, clusters))


def nearest_in_rows(values: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """(rows, columns) uint8: the index of the nearest entry of each row's codebook, ascending (rows, entries <= 256)."""
    bounds = (codebooks[:, 1:] + codebooks[:, :-1]) / 2
    indices = np.zeros(values.shape, np.uint8)
    for bound in bounds.T:
        indices += values > bound[:, None]
    return indices


def _best(rows: np.ndarray, heavy: np.ndarray, clusters: int) -> np.ndarray:
    if rows.shape[1] <= clusters:
        ordered = np.sort(rows, axis=1)
        return np.concatenate([ordered, np.repeat(ordered[:, -1:], clusters - rows.shape[1], axis=1)], axis=1)
    return _lloyd(rows, heavy, _start(rows, heavy, clusters))


def _start(rows: np.ndarray, heavy: np.ndarray, clusters: int) -> np.ndarray:
    """The best codebook of each row's bins of neighbouring values, by dynamic programming. See kmeans_exact.py."""
    order = np.argsort(rows, axis=1, kind="stable")
    x, weight = np.take_along_axis(rows, order, axis=1), np.take_along_axis(heavy, order, axis=1) + 1e-12
    edges = _edges(rows.shape[1], max(_BINS, 2 * clusters))
    bins = len(edges) - 1
    sums = [np.pad(np.cumsum(weight * x**power, axis=1), ((0, 0), (1, 0)))[:, edges] for power in (0, 1, 2)]
    heap, moment, square = (part[:, None, 1:] - part[:, :-1, None] for part in sums)
    is_run = np.arange(bins)[:, None] <= np.arange(bins)
    alone = np.where(is_run, np.maximum(square - moment**2 / np.where(is_run, heap, 1), 0), np.inf)
    cost = np.concatenate([np.zeros((len(rows), 1)), alone[:, 0]], axis=1)
    starts = [np.zeros((len(rows), bins), np.int64)]
    for _ in range(1, clusters):
        total = alone + cost[:, :-1, None]
        starts.append(total.argmin(axis=1))
        cost = np.concatenate([cost[:, :1], total.min(axis=1)], axis=1)
    return _entries(sums, starts, bins)


def _edges(count: int, bins: int) -> np.ndarray:
    """Where bins begin and end. Few values lie far out, and each of them costs much: bins are small at both ends."""
    if count <= bins:
        return np.arange(count + 1)
    places = (1 - np.cos(np.pi * np.arange(bins + 1) / bins)) / 2
    return np.unique(np.rint(count * places).astype(np.int64))


def _entries(sums: list[np.ndarray], starts: list[np.ndarray], bins: int) -> np.ndarray:
    """(rows, clusters): the means of the runs that the starts lead back through; a run of nothing repeats the one behind."""
    every = np.arange(len(sums[0]))
    end = np.full(len(every), bins)
    entries: list[np.ndarray] = []
    for start in reversed(starts):
        first = np.where(end > 0, start[every, end - 1], 0)
        weight, moment = (part[every, end] - part[every, first] for part in sums[:2])
        mean = moment / np.where(end > 0, weight, 1)
        entries.append(np.where(end > 0, mean, entries[-1]) if entries else mean)
        end = first
    return np.sort(np.stack(entries, axis=1), axis=1)


def _lloyd(rows: np.ndarray, heavy: np.ndarray, entries: np.ndarray) -> np.ndarray:
    count, clusters = entries.shape
    first = clusters * np.arange(count)[:, None]
    for _ in range(_ITERATIONS):
        place = (nearest_in_rows(rows, entries) + first).reshape(-1)
        weight = np.bincount(place, heavy.reshape(-1), entries.size).reshape(entries.shape)
        moment = np.bincount(place, (heavy * rows).reshape(-1), entries.size).reshape(entries.shape)
        # An entry without values stays where it is: another may come near it later.
        moved = np.sort(np.where(weight > 0, moment / np.where(weight > 0, weight, 1), entries), axis=1)
        if np.array_equal(moved, entries):
            break
        entries = moved
    return entries
