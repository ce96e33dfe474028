"""Grids for heavy-tailed rounding errors, without data: a few large errors are allowed so that the many get smaller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compressctl.numerics.affine import SMALLEST_SCALE
from compressctl.numerics.grid import Grid, row_chunks

_SHRINKAGE, _GROWTH = 10.0, 1.01
"""Start and growth of the penalty, as the authors publish them."""


def half_quadratic(weight: np.ndarray, start: Grid, *, norm: float = 0.7, iterations: int = 20) -> Grid:
    """A grid with a smaller sum of |W - W'|^norm than the one to start from, group by group; never a larger one.

    weight: (rows, columns). Alternates between the part of the error that is taken as an outlier (a shrinkage operator) and
    the grid that fits the rest best. Runtimes store whole zero points, so the scale moves and, on a grid that is not
    symmetric, the rounded zero point. Source: Badri and Shaji 2023, Half-Quadratic Quantization.
    """
    symmetric = not np.any(start.zero_point) and start.low < 0
    scale, point = np.empty_like(start.scale), np.empty_like(start.zero_point)
    for part in row_chunks(*weight.shape):
        scale[part], point[part] = _of_rows(
            np.ascontiguousarray(weight[part]), start.of_rows(part), norm, iterations, symmetric=symmetric
        )
    return replace(start, scale=scale, zero_point=point)


def _of_rows(
    weight: np.ndarray, start: Grid, norm: float, iterations: int, *, symmetric: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points."""
    columns, groups = weight.shape[1], start.scale.shape[1]
    blocks = np.pad(weight, ((0, 0), (0, groups * start.group - columns)))
    blocks = blocks.reshape(len(weight), groups, start.group).astype(np.float64)
    scale, point = start.scale.astype(np.float64), start.zero_point.astype(np.float64)
    best = (scale, point, _loss(blocks, scale, point, start, norm))
    penalty = _SHRINKAGE / np.maximum(np.abs(blocks).mean(axis=2, keepdims=True), 1e-12)
    for _ in range(iterations):
        codes = _codes(blocks, scale, point, start)
        error = blocks - (codes - point[..., None]) * scale[..., None]
        kept = blocks - _shrunk(error, penalty, norm)
        if not symmetric:
            point = np.clip(np.rint(np.mean(codes - kept / scale[..., None], axis=2)), start.low, start.high)
        steps = codes - point[..., None]
        fitted = np.sum(kept * steps, axis=2) / np.maximum(np.sum(steps**2, axis=2), 1e-12)
        scale = np.where(fitted * np.sign(scale) > SMALLEST_SCALE, fitted, scale)
        loss = _loss(blocks, scale, point, start, norm)
        better = loss < best[2]
        best = tuple(np.where(better, new, old) for new, old in zip((scale, point, loss), best, strict=True))  # type: ignore[assignment]
        penalty = penalty * _GROWTH
    return best[0].astype(np.float32), best[1].astype(np.int32)


def _codes(blocks: np.ndarray, scale: np.ndarray, point: np.ndarray, grid: Grid) -> np.ndarray:
    return np.asarray(np.clip(np.rint(blocks / scale[..., None]) + point[..., None], grid.low, grid.high))


def _loss(blocks: np.ndarray, scale: np.ndarray, point: np.ndarray, grid: Grid, norm: float) -> np.ndarray:
    codes = _codes(blocks, scale, point, grid)
    loss: np.ndarray = np.sum(np.abs(blocks - (codes - point[..., None]) * scale[..., None]) ** norm, axis=2)
    return loss


def _shrunk(error: np.ndarray, penalty: np.ndarray, norm: float) -> np.ndarray:
    """The proximal step of |e|^norm: small errors become zero, large ones stay."""
    size = np.abs(error)
    step = np.power(np.maximum(size, 1e-12), norm - 1) / np.power(penalty, 2 - norm)
    return np.asarray(np.sign(error) * np.maximum(size - step, 0))
