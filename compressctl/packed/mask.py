"""Which elements of a matrix are not zero, in few bits: an adaptive model of what stands above and to the left.

Pruned weights are not spread evenly: rows (neurons) and columns (pixels, channels) that matter keep more of them. Each element
gets a probability from five estimates that are learned while the matrix is read, mixed with weights that are learned too
(logistic mixing, Mahoney 2005; adaptive binary contexts for weights: DeepCABAC, Wiedemann et al. 2019).

Rows are read together, each two columns behind the row above it. So numpy works on a whole diagonal at once, and each element
still sees its whole row so far, its column so far, and its neighbours above and to the left. All is integer arithmetic:
encoder and decoder must agree on each probability to the last bit, on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressctl.packed.cursor import Cursor, varint
from compressctl.packed.decisions import ONE, Array, DecisionReader, Decisions, encode_decisions
from compressctl.packed.logistic import LARGEST, PER_NAT, log_of, probability_of

Mask = NDArray[np.bool_]

_DELAY = 2
"""Columns by which a row is behind the row above it: its neighbour above and to the right is known."""

_UNIT = 32
"""Counts are kept in this part of an observation, so that a prior may be less than one."""
_MOST = 255 * _UNIT
"""Counts above it are halved, so that an estimate follows what changes."""
_PRIOR = 2
"""Observations that the density of the whole matrix is worth at the start of a row or column."""

_WEIGHT_BITS = 16
_FIRST_WEIGHTS = (0.4, 0.4, 0.15, 0.25, 0.0)
_RATE_SHIFT = 17
"""How slowly the weights of the mixture move; slower where more than 256 rows are read together, since their steps add up."""
_NARROW, _SHORT = 8, 1024
"""A matrix with a shorter side than this and more elements than that is read as a square."""
_LONG, _MEDIUM = 32, 1 << 16
"""So is one with more elements than this whose longer side is more than so many times the shorter: diagonals take time."""

_DECISIONS_PER_LANE = 1 << 14
_ONE_LANE = 1 << 21
_MOST_LANES = 256


def encode_mask(mask: Mask) -> bytes:
    """mask: (rows, columns), neither 0. The better of reading it by rows and by columns."""
    square = _squared(mask)
    turns = [_planned(square, is_turned) for is_turned in (False, True)]
    is_turned = turns[1].bits < turns[0].bits
    best = turns[is_turned]
    return bytes([is_turned]) + varint(best.density) + encode_decisions(best.steps, _lanes(square.size))


def decode_mask(source: Cursor, shape: tuple[int, int]) -> Mask:
    """(rows, columns). Raises PackedError where the bytes cannot be what encode_mask wrote."""
    is_turned = bool(source.byte() & 1)
    square = _square(shape)
    density = max(1, source.varint(most=ONE - 1))
    count = square[0] * square[1]
    reader = DecisionReader(source, count, _lanes(count))
    turned = (square[1], square[0]) if is_turned else square
    found = _walk(turned, density, lambda probabilities, _: reader.read(probabilities))
    reader.end()
    upright = found.T if is_turned else found
    return upright.reshape(-1)[: shape[0] * shape[1]].reshape(shape)


def _square(shape: tuple[int, int]) -> tuple[int, int]:
    """A long list is read as a square, because what stands on one diagonal is read together."""
    count = shape[0] * shape[1]
    is_thin = min(shape) < _NARROW and count > _SHORT
    if not is_thin and (count <= _MEDIUM or max(shape) <= _LONG * min(shape)):
        return shape
    width = math.isqrt(count - 1) + 1
    return -(-count // width), width


def _squared(mask: Mask) -> Mask:
    rows, columns = _square(mask.shape)
    padded = np.zeros(rows * columns, bool)
    padded[: mask.size] = mask.reshape(-1)
    return padded.reshape(rows, columns)


@dataclass(frozen=True)
class _Planned:
    """A way to read a matrix: what it takes in bits, and what will be asked."""

    density: int
    steps: list[tuple[Decisions, Array]]

    @property
    def bits(self) -> float:
        decisions, probabilities = (np.concatenate(parts) for parts in zip(*self.steps, strict=True))
        return float(-np.log2(np.where(decisions, probabilities, ONE - probabilities) / ONE).sum())


def _planned(mask: Mask, is_turned: bool) -> _Planned:
    turned = mask.T if is_turned else mask
    density = int(np.clip(round(float(mask.mean()) * ONE), 1, ONE - 1))
    padded = _padded(turned.shape)
    padded[2:, 2:-1] = turned
    flat = padded.reshape(-1)
    steps: list[tuple[Decisions, Array]] = []

    def told(probabilities: Array, where: slice) -> Decisions:
        decisions = flat[where].astype(bool)
        steps.append((decisions, probabilities))
        return decisions

    _walk(turned.shape, density, told)
    return _Planned(density, steps)


def _lanes(count: int) -> int:
    """One state is smallest; many states, which numpy moves together, cost less time where there are many decisions."""
    lanes = 1
    while count > _ONE_LANE and lanes < _MOST_LANES and lanes * 2 * _DECISIONS_PER_LANE <= count:
        lanes *= 2
    return lanes


def _padded(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Zeros around the matrix: two rows above, two columns to the left, one to the right."""
    return np.zeros((shape[0] + 2, shape[1] + 3), np.uint8)


def _walk(shape: tuple[int, int], density: int, told: Callable[[Array, slice], Decisions]) -> Mask:
    """Go through the matrix diagonal by diagonal; told says what stands at each place that it is given probabilities for.

    The places are a slice of the padded matrix, flat."""
    rows, columns = shape
    padded = _padded(shape)
    flat, width = padded.reshape(-1), columns + 3
    stride = width - _DELAY
    by_row, by_column = _Counts.sized(rows, density), _Counts.sized(columns, density)
    by_neighbours, by_both = _Counts.sized(64, density), _Counts.sized(256, density)
    weights = np.array([round(weight * (1 << _WEIGHT_BITS)) for weight in _FIRST_WEIGHTS], np.int64)
    rate_shift = _RATE_SHIFT + max(0, min(rows, columns // _DELAY).bit_length() - 8)
    for step in range(columns + _DELAY * (rows - 1)):
        first = max(0, -(-(step - columns + 1) // _DELAY))
        last = min(rows - 1, step // _DELAY)
        count = last - first + 1
        start = (first + 2) * width + 2 + step - _DELAY * first

        def at(offset: int, start: int = start, count: int = count) -> slice:
            return slice(start + offset, start + offset + stride * (count - 1) + 1, stride)

        row = slice(first, last + 1)
        column = step - _DELAY * np.arange(first, last + 1)
        offsets = (-1, -2, -width, 1 - width, -1 - width, -2 * width)
        near = np.zeros(count, np.int64)
        for bit, offset in enumerate(offsets):
            near |= flat[at(offset)].astype(np.int64) << bit
        row_logit, column_logit = by_row.logit(row), by_column.logit(column)
        both = _level(row_logit) << 4 | _level(column_logit)
        inputs = np.stack(
            [row_logit, column_logit, by_neighbours.logit(near), by_both.logit(both), np.full(count, PER_NAT)]
        )
        mixed = (weights @ inputs) >> _WEIGHT_BITS
        probabilities = probability_of(np.clip(mixed, -LARGEST, LARGEST))
        decisions = told(probabilities, at(0)).astype(np.int64)
        flat[at(0)] = decisions
        for counts, place in ((by_row, row), (by_column, column), (by_neighbours, near), (by_both, both)):
            counts.add(place, decisions)
        weights += (inputs @ (decisions * ONE - probabilities)) >> rate_shift
    return padded[2:, 2:-1].astype(bool)


def _level(logit: Array) -> Array:
    """One of 16 steps of half a nat."""
    return np.clip((logit + 7 * PER_NAT) // (PER_NAT // 2), 0, 15)


class _Counts:
    """How often yes and no were seen in each of several places, in parts of an observation."""

    def __init__(self, yes: Array, no: Array) -> None:
        self.yes, self.no = yes, no

    @classmethod
    def sized(cls, places: int, density: int) -> _Counts:
        yes = max(1, _PRIOR * _UNIT * density // ONE)
        return cls(np.full(places, yes, np.int64), np.full(places, _PRIOR * _UNIT - yes, np.int64))

    def logit(self, place: slice | Array) -> Array:
        return log_of(self.yes[place]) - log_of(self.no[place])

    def add(self, place: slice | Array, decisions: Array) -> None:
        if isinstance(place, slice):
            self.yes[place] += decisions * _UNIT
            self.no[place] += (1 - decisions) * _UNIT
        else:
            np.add.at(self.yes, place, decisions * _UNIT)
            np.add.at(self.no, place, (1 - decisions) * _UNIT)
        is_full = (self.yes[place] + self.no[place]) > _MOST
        if is_full.any():
            full = np.unique(place[is_full]) if isinstance(place, np.ndarray) else np.flatnonzero(is_full) + place.start
            self.yes[full] = (self.yes[full] + 1) >> 1
            self.no[full] = (self.no[full] + 1) >> 1
