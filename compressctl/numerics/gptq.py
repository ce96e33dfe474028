"""Rounding one column after the other, each error made good by the columns that are not rounded yet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compressctl.numerics.grid import Grid

_BLOCK = 128
"""Columns whose corrections are gathered before they reach the rest: the same result, in fewer passes over memory."""


def gptq(
    weight: np.ndarray, hessian: np.ndarray, grid: Grid, *, damping: float = 0.01, act_order: bool = True
) -> np.ndarray:
    """A (rows, columns) weight on a grid, with the least output error that this order of rounding reaches.

    See `compensated`; with act_order the grid's groups stay where they are, so that the stored layout does not change.
    """
    scale, point = (part.astype(np.float64) for part in grid.spread(weight.shape[1]))

    def on_grid(column: int, values: np.ndarray) -> np.ndarray:
        codes = np.clip(np.rint(values / scale[:, column]) + point[:, column], grid.low, grid.high)
        return np.asarray((codes - point[:, column]) * scale[:, column])

    return compensated(weight, hessian, on_grid, damping=damping, act_order=act_order)


def compensated(
    weight: np.ndarray,
    hessian: np.ndarray,
    rounding: Callable[[int, np.ndarray], np.ndarray],
    *,
    damping: float = 0.01,
    act_order: bool = True,
) -> np.ndarray:
    """A (rows, columns) weight of which each column is rounded in turn, its errors made good by those still to come.

    hessian: (columns, columns), X X^T of the layer's inputs up to a factor. rounding: what (rows,) values of a column become.
    damping: share of the Hessian's mean diagonal that is added to it. act_order: columns with the largest inputs first.
    Returns float32. A column whose input is always zero is rounded as it is.
    Raises ValueError when the Hessian is not finite. Source: Frantar et al. 2022, GPTQ, section 3.3 and algorithm 1.
    """
    if not np.isfinite(hessian).all():
        raise ValueError("the Hessian holds NaN or infinity")
    columns = weight.shape[1]
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(columns)
    left = weight[:, order].astype(np.float64)
    inverse = _inverse_factor(hessian[np.ix_(order, order)].astype(np.float64), damping)
    rounded = np.empty_like(left)
    for start in range(0, columns, _BLOCK):
        block = range(start, min(start + _BLOCK, columns))
        errors = np.empty((len(left), len(block)))
        for j in block:
            rounded[:, j] = rounding(int(order[j]), left[:, j])
            error = (left[:, j] - rounded[:, j]) / inverse[j, j]
            left[:, j + 1 : block.stop] -= np.outer(error, inverse[j, j + 1 : block.stop])
            errors[:, j - start] = error
        left[:, block.stop :] -= errors @ inverse[start : block.stop, block.stop :]
    restored = np.empty(weight.shape, np.float32)
    restored[:, order] = rounded
    return restored


def output_error(weight: np.ndarray, other: np.ndarray, hessian: np.ndarray) -> float:
    """tr((W - V) H (W - V)^T): the squared error of the layer's outputs, in the Hessian's units."""
    difference = other.astype(np.float64) - weight
    return float(np.einsum("rk,kl,rl->", difference, hessian, difference, optimize=True))


def _inverse_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """Upper Cholesky factor U of the damped Hessian's inverse, H^-1 = U^T U."""
    silent = np.diag(hessian) <= 0
    hessian[silent, silent] = 1.0
    step = max(damping, 1e-6) * float(np.mean(np.diag(hessian)))
    for _ in range(8):
        try:
            damped = hessian + step * np.eye(len(hessian))
            return np.linalg.cholesky(np.linalg.inv(damped)).T
        except np.linalg.LinAlgError:
            # Fewer samples than columns leave the Hessian singular up to rounding.
            step *= 10
    raise ValueError("the Hessian is not positive definite")
