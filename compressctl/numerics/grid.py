"""Grids of few levels for weights: one scale and zero point for each group of a row, chosen by what rounding then costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from compressctl.numerics.affine import SMALLEST_SCALE

_CHUNK = 1 << 22
"""Elements that are worked on at once: a few copies of them are held."""

_SEARCHED = 1 << 20
"""Elements whose grids are searched at once: small parts of large weights, so that caches hold what the search reads again and again."""


@dataclass(frozen=True)
class Grid:
    """real = scale * (code - zero_point), codes from low to high.

    scale: float32, below zero where the values are turned around, zero_point: int32, both (rows, groups) over the columns that a group has, the last group perhaps fewer.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int
    group: int

    def spread(self, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point of every column: (rows, columns) each."""
        return tuple(np.repeat(part, self.group, axis=1)[:, :columns] for part in (self.scale, self.zero_point))  # type: ignore[return-value]

    def codes(self, weight: np.ndarray) -> np.ndarray:
        """int32 codes of a (rows, columns) weight: rounded half to even, saturated."""
        scale, point = self.spread(weight.shape[1])
        return np.asarray(np.clip(np.rint(weight / scale) + point, self.low, self.high), np.int32)

    def values(self, weight: np.ndarray) -> np.ndarray:
        """float32: what a runtime computes with instead of a (rows, columns) weight."""
        found = np.empty_like(weight, np.float32, subok=False)  # its axes lie in memory as the weight's do
        for part in row_chunks(*weight.shape):  # as much memory as a part takes, several times over
            rows = self.of_rows(part)
            scale, point = rows.spread(weight.shape[1])
            found[part] = (rows.codes(np.ascontiguousarray(weight[part])) - point) * scale
        return found

    def of_rows(self, part: slice) -> Grid:
        return replace(self, scale=self.scale[part], zero_point=self.zero_point[part])


def levels(bits: int, *, symmetric: bool) -> tuple[int, int]:
    """The codes of that many bits: -2^(bits-1) .. 2^(bits-1) - 1 around zero, or 0 .. 2^bits - 1."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (0, (1 << bits) - 1)


def fit_grid(
    weight: np.ndarray,
    bits: int,
    group: int,
    *,
    symmetric: bool,
    signed: bool = False,
    search: bool = True,
    importance: np.ndarray | None = None,
) -> Grid:
    """The grid of each group of `group` columns of a (rows, columns) weight.

    signed: a symmetric grid may also put the group's value of largest magnitude on its lowest code, by a scale that is below zero where that
    value is above it: -8 .. 7 are then all in use. It does so where that costs less. Source: ONNX Runtime, MlasBlockwiseQuantizer (q4_dq.cpp).

    search: try ranges down to a quarter of the group's own and keep the one with the least squared error, where each
    column counts with its importance (columns,), the mean square of its input; without it the whole range is covered,
    but for values next to the extreme of the other sign where signed.
    Rows of one group that are all zero get scale 1. Raises ValueError when a value is not finite.
    """
    if not np.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinity")
    rows, columns = weight.shape
    low, high = levels(bits, symmetric=symmetric)
    groups = -(-columns // group)
    heavy = np.ones(columns, np.float32) if importance is None else np.asarray(importance, np.float32)
    heavy = _grouped(heavy[None], groups, group)[0]
    scales, points = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.int32)
    for part in row_chunks(rows, columns, _SEARCHED):
        blocks = _grouped(np.ascontiguousarray(weight[part], np.float32), groups, group)
        tried = _tried(blocks, low, high, symmetric=symmetric, signed=signed, search=search)
        scales[part], points[part] = _best(blocks, heavy, low, high, tried)
    return Grid(scales, points, low, high, group)


def one_grid(
    weight: np.ndarray,
    bits: int,
    *,
    symmetric: bool,
    signed: bool = False,
    search: bool = True,
    importance: np.ndarray | None = None,
) -> Grid:
    """One scale and zero point for the whole (rows, columns) weight; the Grid has them once for every row."""
    rows, columns = weight.shape
    flat = None if importance is None else np.tile(np.asarray(importance, np.float32), rows)
    found = fit_grid(
        weight.reshape(1, -1),
        bits,
        rows * columns,
        symmetric=symmetric,
        signed=signed,
        search=search,
        importance=flat,
    )
    return Grid(np.tile(found.scale, (rows, 1)), np.tile(found.zero_point, (rows, 1)), found.low, found.high, columns)


def _best(
    blocks: np.ndarray, heavy: np.ndarray, low: int, high: int, grids: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """blocks: (rows, groups, group). heavy: (groups, group). Of all grids' scales and zero points the best, (rows, groups) each."""
    shape, group = blocks.shape[:2], blocks.shape[2]
    least = np.full(shape, np.inf, np.float32)
    scale, point = np.ones(shape, np.float32), np.zeros(shape, np.int32)
    if (
        group < shape[0] * shape[1]
    ):  # the same array with its groups outermost in memory: loops of one scale each are the fastest
        blocks = np.moveaxis(np.ascontiguousarray(np.moveaxis(blocks, 2, 0)), 0, 2)
    root = None if (heavy == 1).all() else np.sqrt(heavy)
    error = np.empty_like(blocks)
    for tried, zero in grids:
        np.divide(blocks, tried[..., None], out=error)
        np.rint(error, out=error)
        if zero.any():
            np.clip(error, *((end - zero[..., None]).astype(np.float32) for end in (low, high)), out=error)
        else:
            np.clip(error, low, high, out=error)
        error *= tried[..., None]
        error -= blocks
        if root is not None:
            error *= root
        loss = np.einsum("rgk,rgk->rg", error, error)
        better = loss < least
        np.copyto(least, loss, where=better)
        np.copyto(scale, tried, where=better)
        np.copyto(point, zero, where=better)
    return scale, point


def _tried(
    blocks: np.ndarray, low: int, high: int, *, symmetric: bool, signed: bool, search: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scales and zero points, (rows, groups) each, of every range that is tried."""
    bottom, top = np.minimum(blocks.min(axis=2), 0), np.maximum(blocks.max(axis=2), 0)
    shares = _shares(high - low) if search else (1.0,)
    for share in shares:
        yield _range(share * bottom, share * top, low, high, symmetric=symmetric)
    if symmetric and signed:
        extreme = np.where(top > -bottom, top, bottom)
        for share in shares:
            yield _on_lowest(share * extreme, low), np.zeros(extreme.shape, np.int32)


def _shares(steps: int) -> np.ndarray:
    """Shares of a range that are tried. The fewer the levels, the more clipping pays; 8 bits seldom want any."""
    return (
        np.linspace(1.0, 0.25, 46) if steps < 8 else np.linspace(1.0, 0.5, 31) if steps < 64 else np.linspace(1, 0.8, 9)
    )


def _range(
    bottom: np.ndarray, top: np.ndarray, low: int, high: int, *, symmetric: bool
) -> tuple[np.ndarray, np.ndarray]:
    if symmetric:
        largest = np.maximum(-bottom, top)
        scale, point = largest / high, np.zeros(bottom.shape, np.int32)
    else:
        scale = (top - bottom) / (high - low)
        point = np.rint(low - bottom / np.where(scale > 0, scale, 1)).astype(np.int32)
    scale = np.where(top > bottom, np.maximum(scale, SMALLEST_SCALE), 1).astype(np.float32)
    return scale, np.clip(point, low, high)


def _on_lowest(extreme: np.ndarray, low: int) -> np.ndarray:
    """The scale at which the lowest code stands for a value: as far from zero as any other, and 1 for a value of zero."""
    scale = extreme / low
    far = np.copysign(np.maximum(np.abs(scale), SMALLEST_SCALE), scale)
    return np.where(extreme != 0, far, 1).astype(np.float32)


def _grouped(values: np.ndarray, groups: int, group: int) -> np.ndarray:
    """(rows, groups, group): the last group is filled up with zeros, which cost nothing on any grid."""
    missing = groups * group - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing))).reshape(len(values), groups, group)


def row_chunks(rows: int, columns: int, elements: int = _CHUNK) -> Iterator[slice]:
    """Rows of a matrix that are worked on at once."""
    step = max(1, elements // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, start + step)
