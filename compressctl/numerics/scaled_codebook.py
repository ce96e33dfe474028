"""A weight that is one codebook times a scale per output channel, found from the values alone and exact to the last bit.

That is what shared weights become when BatchNorm is folded into them. Which entry and which scale a value is the product of shows
in the ratios within a row. Numbers that give every product its exact bits exist wherever the values were made so, with one rounding:
each value says between which bounds log(scale) + log(entry) lies, a system of difference constraints.
Source: Cormen et al., Introduction to Algorithms, section 24.4 (difference constraints and shortest paths).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressctl.numerics.codebook import MOST_ENTRIES, Coded, restore, same_bits, shared
from compressctl.numerics.kmeans import middles

_ALIKE = 1e-6
"""Relative. Ratios of values that were each rounded to float32 differ by less from what they were before."""

_WHOLE = 1e-3
"""How far from a whole number a significand of 8 bits may seem to lie: scales that were found are off by 1e-7 of themselves."""

_INSIDE = 1e-13
"""Bounds are drawn in by that much, relative: more than float64's logarithms lose, far less than half a step of float32."""


def scaled(values: np.ndarray, most: int = MOST_ENTRIES) -> Coded | None:
    """values: float32, rows along axis 0. None where no codebook of at most `most` entries gives each value exactly.

    Where scales of 8 significant bits do, as those of `share.kmeans`, scale and codebook are float32, else float64.
    """
    if values.dtype != np.float32 or values.ndim < 2 or len(values) < 2 or not np.isfinite(values).all():
        return None
    by_row = shared(values, len(values), most)
    if by_row is None:
        return None
    matched = _match(by_row.codebook, most)
    if matched is None:
        return None
    solved = _solve(by_row.codebook, matched)
    if solved is None:
        return None
    codebook, scale = solved
    rows = by_row.indices.reshape(len(values), -1).astype(np.intp)
    indices = np.take_along_axis(matched.places, rows, axis=1).reshape(values.shape)
    order = np.lexsort((np.signbit(codebook) == 0, codebook))
    rank = np.argsort(order).astype(np.uint8)
    coded = Coded(rank[indices], codebook[order][None], values.dtype, scale)
    if not same_bits(restore(coded), values):
        return None
    return _short(coded, values) or coded


@dataclass(frozen=True)
class _Matched:
    """places: (rows, values of a row) entry of each. codebook, scale: near what they must be; a scale may be negative."""

    places: np.ndarray
    codebook: np.ndarray
    scale: np.ndarray


def _match(table: np.ndarray, most: int) -> _Matched | None:
    """table: (rows, entries) float32, each row's different values. None where more than `most` entries would be needed."""
    rows = [np.unique(row[row != 0]).astype(np.float64) for row in table]
    entries = rows[int(np.argmax([len(row) for row in rows]))]
    scale = np.ones(len(rows))
    for position in sorted(range(len(rows)), key=lambda row: -len(rows[row])):
        if not len(rows[position]):
            continue
        scale[position], others = _row_scale(rows[position], entries, _prefers_negative(table[position]))
        entries = np.union1d(entries, others)
        if len(entries) > most:
            return None
    zeros = [zero for zero, exists in zip((0.0, -0.0), _zeros(table, scale), strict=True) if exists]
    if len(entries) + len(zeros) > most:
        return None
    codebook = np.concatenate([entries, np.array(zeros)])
    places = _nearest(table / scale[:, None], entries) if len(entries) else np.zeros(table.shape, np.intp)
    for offset, zero in enumerate(zeros):
        is_there = (table == 0) & ((np.signbit(table) ^ (scale < 0)[:, None]) == np.signbit(zero))
        places = np.where(is_there, len(entries) + offset, places)
    return _Matched(places, codebook, scale)


def _short(coded: Coded, values: np.ndarray) -> Coded | None:
    """The same with scales of 8 significant bits, whose products with float32 entries are exact in float32.

    Scales are known up to a common factor: one of the 128 significands of the first decides it.
    """
    assert coded.scale is not None
    # A row of zeros has any scale.
    used = (values.reshape(len(values), -1) != 0).any(axis=1)
    known = np.where(used, coded.scale, coded.scale[np.argmax(used)])
    tried = known / known[0] * np.arange(128, 256)[:, None]
    mantissa, exponent = np.frexp(tried)
    whole = np.rint(mantissa * 256)
    for fit in np.flatnonzero((np.abs(mantissa * 256 - whole) < _WHOLE).all(axis=1)):
        scale = np.ldexp(whole[fit], exponent[fit] - 8) * np.sign(known[0])
        short = _with_scales(coded, values, scale)
        if same_bits(restore(short), values):
            return short
    return None


def _with_scales(coded: Coded, values: np.ndarray, scale: np.ndarray) -> Coded:
    """Entries are a value of each, divided by its scale."""
    codes = coded.indices.reshape(-1)
    entries, first = np.unique(codes, return_index=True)
    codebook = coded.codebook[0].copy()
    codebook[entries] = values.reshape(-1)[first] / scale[first // (codes.size // len(values))]
    return Coded(coded.indices, codebook[None].astype(np.float32), coded.dtype, scale.astype(np.float32))


def _prefers_negative(row: np.ndarray) -> bool:
    """Zeros become -0.0 where they are multiplied by a negative scale."""
    return bool(np.any((row == 0) & np.signbit(row)))


def _row_scale(row: np.ndarray, entries: np.ndarray, negative_first: bool) -> tuple[float, np.ndarray]:
    """The scale with which most of a row's values are entries, and what the others would be as entries."""
    best: tuple[int, float, np.ndarray] | None = None
    for anchor in row[np.argsort(-np.abs(row))[:3]]:
        found = anchor / entries
        found = found[np.argsort((found > 0) if negative_first else (found < 0), kind="stable")]
        tried = row[None] / found[:, None]
        near = np.abs(tried - entries[_nearest(tried, entries)]) <= _ALIKE * np.abs(tried)
        counts = near.sum(axis=1)
        first = int(np.argmax(counts))
        if best is None or counts[first] > best[0]:
            best = int(counts[first]), float(found[first]), tried[first][~near[first]]
        if best[0] == len(row):
            break
    assert best is not None
    return best[1], best[2]


def _nearest(values: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """The index of the nearest of ascending entries."""
    return np.searchsorted(middles(entries), values)


def _zeros(table: np.ndarray, scale: np.ndarray) -> tuple[bool, bool]:
    """Whether the codebook needs 0.0 and -0.0."""
    sign = (np.signbit(table) ^ (scale < 0)[:, None])[table == 0]
    return bool(np.any(~sign)), bool(np.any(sign))


def _solve(table: np.ndarray, matched: _Matched) -> tuple[np.ndarray, np.ndarray] | None:
    """The codebook and the scales, float64, whose products are the table's values once they are rounded to float32.

    Shortest paths by relaxation, from the matched numbers on: a simple path passes each entry once, so that as many rounds
    as there are entries either settle everything or show a contradiction.
    """
    is_zero = matched.codebook == 0
    count = int(np.count_nonzero(~is_zero))
    if not count:
        return matched.codebook, matched.scale
    lowest, highest = _bounds(table, matched.places, count)
    entry = np.log(np.abs(matched.codebook[:count]))
    row = -np.log(np.abs(matched.scale))
    for _ in range(count + 2):
        lower_entry = np.minimum(entry, (row[:, None] + highest).min(axis=0))
        lower_row = np.minimum(row, (lower_entry[None] - lowest).min(axis=1))
        is_settled = np.array_equal(lower_entry, entry) and np.array_equal(lower_row, row)
        entry, row = lower_entry, lower_row
        if is_settled:
            break
    entry, row = _brief(entry, row, lowest, highest)
    codebook = np.concatenate([np.copysign(entry, matched.codebook[:count]), matched.codebook[count:]])
    return codebook, np.copysign(row, matched.scale)


def _brief(
    entry: np.ndarray, row: np.ndarray, lowest: np.ndarray, highest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Entries (count,) and scales (rows,), positive, with few significant bits: they take less room in a file that is packed.

    entry, row: logarithms that satisfy the bounds, row's with its sign turned. Each is moved to the middle of what the others leave
    free, then rounded as far as that goes; where nothing is free it stays.
    """
    for _ in range(4):
        entry = _middle((lowest + row[:, None]).max(axis=0), (highest + row[:, None]).min(axis=0), entry)
        row = _middle((entry - highest).max(axis=1), (entry - lowest).min(axis=1), row)
    scale = _fewest_bits((lowest - entry).max(axis=1), (highest - entry).min(axis=1), -row)
    log_scale = np.log(scale)[:, None]
    return _fewest_bits((lowest - log_scale).max(axis=0), (highest - log_scale).min(axis=0), entry), scale


def _middle(low: np.ndarray, high: np.ndarray, before: np.ndarray) -> np.ndarray:
    is_free = np.isfinite(low) & np.isfinite(high) & (low < high)
    middle = np.where(is_free, low, 0) / 2 + np.where(is_free, high, 0) / 2
    return np.asarray(np.where(is_free, middle, before))


def _fewest_bits(low: np.ndarray, high: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """low, high, middle: logarithms. The numbers between low and high whose significands are shortest."""
    found: np.ndarray = np.exp(middle)
    mantissa, exponent = np.frexp(found)
    for bits in range(52, 7, -1):
        tried = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
        is_inside = (np.log(tried) >= low) & (np.log(tried) <= high)
        found = np.where(is_inside, tried, found)
    return found


def _bounds(table: np.ndarray, places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, count): between which logarithms a product must lie to be rounded to the value that the row has of that entry."""
    size = np.abs(table)
    below = (size.astype(np.float64) + np.nextafter(size, np.float32(0))) / 2
    with np.errstate(over="ignore"):  # above the largest float32 lies infinity, and that is a bound too
        above = (size.astype(np.float64) + np.nextafter(size, np.float32(np.inf))) / 2
    lowest, highest = np.full((len(table), count), -np.inf), np.full((len(table), count), np.inf)
    for row, column in np.argwhere(size != 0):
        place = places[row, column]
        lowest[row, place] = max(lowest[row, place], np.log(below[row, column]) + _INSIDE)
        highest[row, place] = min(highest[row, place], np.log(above[row, column]) - _INSIDE)
    return lowest, highest
