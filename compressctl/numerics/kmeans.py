"""k-means of numbers on a line: put in order once, an iteration of Lloyd's costs k searches instead of a pass over all values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from compressctl.numerics.kmeans_exact import exact_codebook

Init = Literal["optimal", "linear", "density", "k-means++"]

_SORTED = 1 << 16
"""More values than that are put into bins instead of being sorted, which takes a tenth of the time."""

_PLACES = 1 << 13
"""Bins of equal width."""

_BINS = 256
"""Points of the histogram whose best codebook is the start: what is left to Lloyd is some digits of each entry."""

_COMPARED = 64
"""Entries up to which comparing all values with each bound is faster than searching for each value."""

_CHUNK = 1 << 15
_ITERATIONS = 100
_POLISHES = 2
"""Passes over the values themselves after bins: what is left is far below a bin."""
_SETTLED = 1e-6
"""Relative: of the largest value. Less movement changes nothing that float32 shows."""


@dataclass(frozen=True)
class Line:
    """Points in ascending order with running sums: weight, weight x value, each with a leading 0, float64.

    reach: the largest magnitude. is_binned: points are means of neighbouring values.
    """

    values: np.ndarray
    weight: np.ndarray
    moment: np.ndarray
    reach: float
    is_binned: bool = False

    @classmethod
    def of(cls, values: np.ndarray, importance: np.ndarray | None = None) -> Line:
        """values: any shape, not empty. importance: of the same shape, not negative; None: all alike."""
        flat = values.reshape(-1)
        heavy = None if importance is None else importance.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        reach = max(-low, high)
        if flat.size > _SORTED and high > low:
            return cls(*_bins(flat, heavy, low, high), reach, is_binned=True)
        order = np.argsort(flat, kind="stable")
        ordered = flat[order].astype(np.float64)
        weight = np.ones(flat.size) if heavy is None else heavy[order].astype(np.float64)
        return cls(ordered, _running(weight), _running(ordered * weight), reach)


def kmeans(
    values: np.ndarray,
    clusters: int,
    *,
    init: Init = "optimal",
    importance: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """The codebook, ascending, float64, of at most `clusters` entries: fewer where there are fewer different values.

    values, importance: as for `Line.of`. init: optimal starts from the best codebook of the values' histogram, linear from
    evenly spaced entries, density from entries that stand for equally many values, k-means++ from values drawn by rng.
    Raises ValueError for values that are not finite.
    Source: Han et al. 2016, "Deep Compression", section 3 (linear and density); Arthur & Vassilvitskii 2007 (k-means++).
    """
    if not np.isfinite(values).all():
        raise ValueError("the values hold NaN or infinity")
    if not values.size:
        return np.zeros(0)
    heavy = importance if importance is not None and np.any(importance) else None
    line = Line.of(values, heavy)
    entries = lloyd(line, start(line, clusters, init, rng))
    flat = None if heavy is None else heavy.reshape(-1)
    return _polished(values.reshape(-1), flat, entries, line.reach) if line.is_binned else entries


def start(line: Line, clusters: int, init: Init, rng: np.random.Generator | None = None) -> np.ndarray:
    """Where Lloyd begins: ascending entries, float64."""
    low, high = line.values[0], line.values[-1]
    if init == "linear" or low == high:
        return np.unique(np.linspace(low, high, clusters))
    if init == "density":
        shares = (np.arange(clusters) + 0.5) / clusters * line.weight[-1]
        return np.unique(line.values[np.minimum(np.searchsorted(line.weight[1:], shares), line.values.size - 1)])
    places, weight = _histogram(line)
    if init == "optimal":
        return exact_codebook(places, weight, clusters)
    return _drawn(places, weight, clusters, np.random.default_rng(0) if rng is None else rng)


def lloyd(line: Line, entries: np.ndarray) -> np.ndarray:
    """Move each entry to the mean of the points nearest to it until none moves. Entries without points go."""
    for _ in range(_ITERATIONS):
        bounds = np.concatenate([[0], np.searchsorted(line.values, middles(entries)), [line.values.size]])
        moved = _means(np.diff(line.weight[bounds]), np.diff(line.moment[bounds]))
        if _is_settled(moved, entries, line.reach):
            return moved
        entries = moved
    return entries


def nearest(values: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """The index of the nearest entry of an ascending codebook, of the values' shape: uint8 up to 256 entries, else intp."""
    bounds = middles(codebook)
    if len(codebook) > _COMPARED or values.dtype != np.float32:
        found = np.searchsorted(bounds, values.astype(np.float64))
        return found.astype(np.uint8) if len(codebook) <= 256 else found
    indices = np.zeros(values.shape, np.uint8)
    for bound in _rounded_down(bounds):
        indices += values > bound
    return indices


def middles(codebook: np.ndarray) -> np.ndarray:
    return np.asarray((codebook[1:] + codebook[:-1]) / 2)


def _rounded_down(bounds: np.ndarray) -> np.ndarray:
    """float32: a float32 value is above a bound exactly if it is above what this gives for it."""
    near = bounds.astype(np.float32)
    return np.where(near.astype(np.float64) > bounds, np.nextafter(near, np.float32(-np.inf)), near)


def _polished(values: np.ndarray, importance: np.ndarray | None, entries: np.ndarray, reach: float) -> np.ndarray:
    """Lloyd on the values themselves: bins are cut where only a value may be."""
    for _ in range(_POLISHES):
        sums = np.zeros((2, entries.size))
        for part, heavy in _chunks(values, importance):
            sums += _sums(nearest(part, entries), part, heavy, entries.size)
        moved = _means(*sums)
        if _is_settled(moved, entries, reach):
            return moved
        entries = moved
    return entries


def _chunks(values: np.ndarray, importance: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Parts that stay in a processor's cache: passing large arrays through memory would take most of the time."""
    for begin in range(0, values.size, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        yield values[part], None if importance is None else importance[part].astype(np.float64)


def _sums(index: np.ndarray, values: np.ndarray, heavy: np.ndarray | None, count: int) -> np.ndarray:
    """(2, count): weight and weight x value by index."""
    place = index.astype(np.intp)
    weight = np.bincount(place, heavy, count)
    return np.stack([weight, np.bincount(place, values if heavy is None else values * heavy, count)])


def _means(weight: np.ndarray, moment: np.ndarray) -> np.ndarray:
    used = weight > 0
    return np.asarray(moment[used] / weight[used])


def _is_settled(moved: np.ndarray, entries: np.ndarray, reach: float) -> bool:
    return moved.size == entries.size and bool(np.abs(moved - entries).max() <= _SETTLED * reach)


def _running(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1), np.cumsum(values)])


def _bins(
    values: np.ndarray, heavy: np.ndarray | None, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scale = (_PLACES - 1) / (high - low)
    sums = np.zeros((2, _PLACES))
    for part, importance in _chunks(values, heavy):
        sums += _sums((part - low) * scale, part, importance, _PLACES)
    weight, moment = sums
    used = weight > 0
    weight, moment = weight[used], moment[used]
    return moment / weight, _running(weight), _running(moment)


def _histogram(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """(means, weights) of bins, ascending. Half of the bins are equally wide and half hold equally many values."""
    wide = np.searchsorted(line.values, np.linspace(line.values[0], line.values[-1], _BINS // 2 + 1)[1:-1])
    shares = np.linspace(0, line.weight[-1], _BINS // 2 + 1)
    many = np.minimum(np.searchsorted(line.weight, shares), line.values.size)
    bounds = np.unique(np.concatenate([[0], wide, many, [line.values.size]]))
    weight, moment = np.diff(line.weight[bounds]), np.diff(line.moment[bounds])
    used = weight > 0
    return moment[used] / weight[used], weight[used]


def _drawn(places: np.ndarray, weight: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Each entry is drawn with the probability of its squared distance from those before."""
    first = rng.choice(places, p=weight / weight.sum())
    entries, distance = [first], (places - first) ** 2
    while len(entries) < clusters and (weight * distance).sum() > 0:
        chances = weight * distance
        entries.append(rng.choice(places, p=chances / chances.sum()))
        distance = np.minimum(distance, (places - entries[-1]) ** 2)
    return np.sort(np.array(entries))
