"""A matrix as a product of two thinner ones, with the least error for the inputs that it is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

DAMPING = 1e-6
"""Share of the mean input power that is added to every direction: inputs that calibration never saw stay defined."""

_ROWS = 256
"""Compared at a time."""


@dataclass(frozen=True)
class Decomposition:
    """weight = left @ diag(values) @ right.

    left: (out, n), orthonormal columns. values: (n,), falling. right: (n, in). Orthonormal rows where the inputs were taken
    as white; else rows that are orthonormal after multiplication with the whitening factor. n = min(out, in). float64.
    """

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray


def whitening(covariance: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """The lower triangular S with S S^T = covariance + damping * mean(diagonal) * I.

    covariance: (n, n), X X^T of inputs. Only its shape decides a decomposition, not its scale. An all-zero one is taken as white.
    Raises ValueError when it is not symmetric, or not positive semidefinite.
    """
    covariance = np.asarray(covariance, dtype=np.float64)
    if not _is_symmetric(covariance):
        raise ValueError("a covariance is symmetric, and this one is not")
    power = float(np.trace(covariance)) / len(covariance)
    if power == 0.0:
        return np.eye(len(covariance))
    damped = covariance.copy()
    damped[np.diag_indices(len(damped))] += damping * power
    # LAPACK reads columns first: the transpose of a symmetric array is the same numbers where they lie.
    upper, failed = scipy.linalg.lapack.dpotrf(damped.T, lower=0, clean=1, overwrite_a=1)
    if failed:
        raise ValueError("the covariance is not positive semidefinite")
    return np.asarray(upper.T)


def _is_symmetric(matrix: np.ndarray) -> bool:
    """Up to rounding; some rows at a time."""
    largest = max(float(matrix.max(initial=0.0)), -float(matrix.min(initial=0.0)))
    return matrix.shape == matrix.T.shape and all(
        np.allclose(matrix[start : start + _ROWS], matrix[:, start : start + _ROWS].T, rtol=1e-6, atol=1e-9 * largest)
        for start in range(0, len(matrix), _ROWS)
    )


def decompose(weight: np.ndarray, factor: np.ndarray | None = None) -> Decomposition:
    """The singular value decomposition of weight @ factor, with the factor taken out of the right side again.

    weight: (out, in). factor: (in, in), lower triangular, from `whitening`; None for white inputs. The sum of the squares
    of the values from some rank on is the squared error of the layer's outputs when only that rank is kept, summed over the
    inputs that the covariance was summed over. No other matrix of that rank has less (Eckart and Young).
    Source: SVD-LLM, Wang et al. 2024, section 3.1 (truncation-aware whitening).
    """
    weight = np.asarray(weight, dtype=np.float64)
    if factor is None:
        left, values, right = scipy.linalg.svd(weight, full_matrices=False)
        return Decomposition(left, values, right)
    left, values, whitened = scipy.linalg.svd(weight @ factor, full_matrices=False)
    return Decomposition(left, values, unwhitened(whitened.T, factor).T)


def unwhitened(basis: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """What the columns of a basis of whitened inputs are for the inputs themselves.

    basis: (in, n), directions in the rows of weight @ factor. factor: (in, in), lower triangular, from `whitening`.
    """
    solved: np.ndarray = scipy.linalg.solve_triangular(factor, basis, lower=True, trans="T")
    return solved


def low_rank(decomposition: Decomposition, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The two factors of a rank: (out, rank) and (rank, in), the singular values shared evenly between them.

    Even shares keep both factors' scales alike, which training and rounding to integers both like.
    Raises ValueError when rank is not in 1 .. min(out, in).
    """
    if not 1 <= rank <= len(decomposition.values):
        raise ValueError(f"rank {rank} is not in 1 .. {len(decomposition.values)}")
    root = np.sqrt(decomposition.values[:rank])
    return decomposition.left[:, :rank] * root, root[:, None] * decomposition.right[:rank]


def dropped_shares(values: np.ndarray) -> np.ndarray:
    """(n + 1,): the share of the sum of squares that is lost when 0, 1, ... n singular values are kept."""
    squares = np.square(np.asarray(values, dtype=np.float64))
    total = squares.sum()
    if total == 0.0:
        return np.zeros(len(squares) + 1)
    # Summed from the small end: subtracting from the whole would lose the small shares to rounding.
    shares: np.ndarray = np.append(np.cumsum(squares[::-1])[::-1], 0.0) / total
    return shares
