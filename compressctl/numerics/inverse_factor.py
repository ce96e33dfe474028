"""The factor of a Hessian's inverse that says what a column's error does to the columns after it, in the memory of one matrix."""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtri

_ROWS = 256
"""Copied at a time, so that a Hessian in another order is never there twice."""


def inverse_factor(hessian: np.ndarray, added: np.ndarray | float, order: np.ndarray | None = None) -> np.ndarray:
    """The upper triangular U with U^T U = (H + diag(added))^-1, as (n, n) float64.

    hessian: (n, n), symmetric, finite, left as it is. added: to the diagonal, one number or (n,) as the Hessian's columns are
    numbered. order: (n,), the columns as U shall have them; None for their own order.
    Beside the Hessian it takes the memory of U: with J the reversal and J H J = L L^T, U is J L^-1 J, so that one array is
    factorized and inverted where it lies.
    Raises numpy.linalg.LinAlgError when the sum is not positive definite.
    """
    size = len(hessian)
    backwards = (np.arange(size) if order is None else order)[::-1]
    matrix = np.empty((size, size))
    for start in range(0, size, _ROWS):
        rows = backwards[start : start + _ROWS]
        matrix[start : start + _ROWS] = hessian[rows][:, backwards]
    matrix[np.diag_indices(size)] += np.broadcast_to(added, size)[backwards]
    # LAPACK reads columns first: of a symmetric array in C order the transpose is the same numbers in place, and an upper
    # factor there is a lower one here.
    upper, failed = dpotrf(matrix.T, lower=0, clean=1, overwrite_a=1)
    if not failed:
        upper, failed = dtrtri(upper, lower=0, overwrite_c=1)
    if failed or not np.isfinite(upper).all():
        raise np.linalg.LinAlgError("the Hessian is not positive definite")
    return np.asarray(upper.T[::-1, ::-1])
