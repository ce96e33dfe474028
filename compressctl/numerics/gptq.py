"""Rounding one column after the other, each error made good by the columns that are not rounded yet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compressctl.numerics.grid import Grid, row_chunks
from compressctl.numerics.inverse_factor import inverse_factor

_BLOCK = 128
"""Columns whose corrections are gathered before they reach the rest: the same result, in fewer passes over memory."""


def gptq(
    weight: np.ndarray, hessian: np.ndarray, grid: Grid, *, damping: float = 0.01, act_order: bool = True
) -> np.ndarray:
    """A (rows, columns) weight on a grid, with the least output error that this order of rounding reaches.

    See `compensated`; with act_order the grid's groups stay where they are, so that the stored layout does not change.
    """
    order, inverse = _prepared(hessian, damping, act_order=act_order)
    rounded = np.empty_like(weight, np.float32, subok=False)  # its axes lie in memory as the weight's do
    for part in row_chunks(*weight.shape):  # rows do not meet, and each takes a few copies of itself in float64
        rows = grid.of_rows(part)

        def on_grid(column: int, values: np.ndarray, rows: Grid = rows) -> np.ndarray:
            group = column // rows.group
            scale, point = (found[:, group].astype(np.float64) for found in (rows.scale, rows.zero_point))
            codes = np.clip(np.rint(values / scale) + point, rows.low, rows.high)
            return np.asarray((codes - point) * scale)

        rounded[part] = _in_turn(weight[part], order, inverse, on_grid)
    return rounded


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
    order, inverse = _prepared(hessian, damping, act_order=act_order)
    return _in_turn(weight, order, inverse, rounding)


def _prepared(hessian: np.ndarray, damping: float, *, act_order: bool) -> tuple[np.ndarray, np.ndarray]:
    """The columns in their order, and the factor of the inverse in that order. Raises ValueError."""
    if not np.isfinite(hessian).all():
        raise ValueError("the Hessian holds NaN or infinity")
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(len(hessian))
    return order, _damped(hessian, damping, order)


def _in_turn(
    weight: np.ndarray, order: np.ndarray, inverse: np.ndarray, rounding: Callable[[int, np.ndarray], np.ndarray]
) -> np.ndarray:
    columns = weight.shape[1]
    left = weight[:, order].astype(np.float64, order="C")
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
    total = 0.0
    for part in row_chunks(*weight.shape):
        difference = other[part].astype(np.float64, order="C") - np.ascontiguousarray(weight[part])
        total += float(np.einsum("rk,kl,rl->", difference, hessian, difference, optimize=True))
    return total


def _damped(hessian: np.ndarray, damping: float, order: np.ndarray) -> np.ndarray:
    """The factor of the inverse with as much damping as it takes. A column that was never anything but zero counts 1."""
    seen = np.diag(hessian).astype(np.float64)
    silent = np.where(seen <= 0, 1.0 - seen, 0.0)
    step = max(damping, 1e-6) * float(np.mean(seen + silent))
    for _ in range(8):
        try:
            return inverse_factor(hessian, silent + step, order)
        except np.linalg.LinAlgError:
            # Fewer samples than columns leave the Hessian singular up to rounding.
            step *= 10
    raise ValueError("the Hessian is not positive definite")
