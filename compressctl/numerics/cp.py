"""A tensor as a sum of outer products of vectors: canonical polyadic decomposition by alternating least squares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.linalg

_DAMPING = 1e-6
"""Share of the largest curvature with which a factor is held near its last value: it bounds components that grow against
each other (degeneracy), and no sweep makes the fit worse."""

_TOLERANCE = 1e-7
"""Of the share of the sum of squares that a sweep still wins."""


def cp(tensor: np.ndarray, rank: int, sweeps: int = 100) -> tuple[np.ndarray, ...]:
    """One factor per axis, (size, rank), whose outer products add up to about the tensor. float64.

    tensor: (out, in, ...). Starts from the singular vectors of its out x in slices, the strongest of all slices first, so
    that enough rank gives the tensor exactly and the same tensor always gives the same factors. The columns of the factors
    have one length. Raises ValueError when rank is not in 1 .. `full_rank(tensor.shape)`.
    Source: Kolda and Bader 2009, Tensor Decompositions and Applications, section 3.4; the damping: Li, Kindermann and Navasca 2013.
    """
    if not 1 <= rank <= full_rank(tensor.shape):
        raise ValueError(f"rank {rank} is not in 1 .. {full_rank(tensor.shape)}")
    tensor = np.asarray(tensor, dtype=np.float64)
    factors = _start(tensor, rank)
    total = float(np.sum(np.square(tensor)))
    if total == 0.0:
        return tuple(factors)
    error = _squared_error(tensor, factors)
    for _ in range(sweeps):
        for axis in range(tensor.ndim):
            factors[axis] = _solved(tensor, factors, axis)
            factors = _balanced(factors)
        before, error = error, _squared_error(tensor, factors)
        if before - error <= _TOLERANCE * total:
            break
    return tuple(factors)


def full_rank(shape: Sequence[int]) -> int:
    """A rank at which every tensor of the shape can be written exactly: each slice of the first two axes on its own."""
    return min(shape[:2]) * math.prod(shape[2:])


def composed(factors: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of outer products."""
    joined = _khatri_rao(factors[1:])
    whole: np.ndarray = (factors[0] @ joined.T).reshape([len(factor) for factor in factors])
    return whole


def _start(tensor: np.ndarray, rank: int) -> list[np.ndarray]:
    """The strongest singular triples of all out x in slices; along the other axes each stands at its slice's place."""
    places = list(np.ndindex(*tensor.shape[2:]))
    slices = [scipy.linalg.svd(tensor[:, :, *place], full_matrices=False) for place in places]
    strengths = np.stack([values for _, values, _ in slices])
    chosen = np.argsort(strengths, axis=None, kind="stable")[::-1][:rank]
    factors = [np.zeros((size, rank)) for size in tensor.shape]
    for column, (number, position) in enumerate(zip(*np.unravel_index(chosen, strengths.shape), strict=True)):
        left, values, right = slices[number]
        factors[0][:, column] = left[:, position] * values[position]
        factors[1][:, column] = right[position]
        for axis, place in enumerate(places[number], start=2):
            factors[axis][place, column] = 1.0
    return _balanced(factors)


def _solved(tensor: np.ndarray, factors: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """The factor of one axis that fits best when the others stay."""
    others = [factor for position, factor in enumerate(factors) if position != axis]
    curvature = np.ones((others[0].shape[1],) * 2)
    for factor in others:
        curvature = curvature * (factor.T @ factor)
    unfolded = np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)
    damping = _DAMPING * float(np.diag(curvature).max()) + 1e-300
    right_side = unfolded @ _khatri_rao(others) + damping * factors[axis]
    damped = curvature + damping * np.eye(len(curvature))
    solved: np.ndarray = scipy.linalg.solve(damped, right_side.T, assume_a="pos").T
    return solved


def _balanced(factors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same sum with columns of one length in all factors."""
    lengths = [np.linalg.norm(factor, axis=0) for factor in factors]
    shared = np.prod(lengths, axis=0) ** (1.0 / len(factors))
    return [
        factor * np.divide(shared, length, out=np.zeros_like(shared), where=length > 0)
        for factor, length in zip(factors, lengths, strict=True)
    ]


def _squared_error(tensor: np.ndarray, factors: Sequence[np.ndarray]) -> float:
    return float(np.sum(np.square(tensor - composed(factors))))


def _khatri_rao(factors: Sequence[np.ndarray]) -> np.ndarray:
    """(product of sizes, rank): the outer product of every column, flattened in the order of the axes."""
    joined = factors[0]
    for factor in factors[1:]:
        joined = (joined[:, None, :] * factor[None, :, :]).reshape(-1, joined.shape[1])
    return joined
