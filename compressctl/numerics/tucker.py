"""A convolution's weight with fewer channels inside: Tucker decomposition of its first two axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

_TOLERANCE = 1e-9
"""Of the share of the sum of squares that a sweep still wins."""


@dataclass(frozen=True)
class Tucker:
    """tensor[t, s, ...] = sum over p, q of left[t, p] core[p, q, ...] right[s, q]. float64.

    left: (out, p), right: (in, q), both with orthonormal columns. core: (p, q, ...).
    """

    left: np.ndarray
    core: np.ndarray
    right: np.ndarray

    @property
    def full(self) -> np.ndarray:
        whole: np.ndarray = np.einsum("tp,pq...,sq->ts...", self.left, self.core, self.right, optimize=True)
        return whole


def hosvd(tensor: np.ndarray) -> Tucker:
    """The whole tensor, exactly, in the bases of its output and input channels with the strongest first.

    tensor: (out, in, ...). Cutting the core to its first (p, q) channels gives the truncated higher-order SVD.
    Source: De Lathauwer, De Moor and Vandewalle 2000, A Multilinear Singular Value Decomposition.
    """
    tensor = np.asarray(tensor, dtype=np.float64)
    left, right = _basis(tensor), _basis(tensor.swapaxes(0, 1))
    return Tucker(left, _project(tensor, left, right), right)


def dropped_shares(decomposition: Tucker) -> np.ndarray:
    """(out + 1, in + 1): the share of the sum of squares that is lost when the first (p, q) channels are kept.

    Exact: both bases are orthonormal, so that what the core keeps is what the tensor keeps.
    """
    squares = np.square(decomposition.core).reshape(*decomposition.core.shape[:2], -1).sum(axis=2)
    kept = np.zeros((squares.shape[0] + 1, squares.shape[1] + 1))
    kept[1:, 1:] = squares.cumsum(axis=0).cumsum(axis=1)
    total = kept[-1, -1]
    shares: np.ndarray = np.clip(1.0 - kept / total, 0.0, 1.0) if total else np.zeros_like(kept)
    return shares


def tucker2(tensor: np.ndarray, ranks: tuple[int, int], sweeps: int = 20) -> Tucker:
    """The ranks (p, q) of output and input channels that lose least: alternating least squares from the truncated HOSVD.

    tensor: (out, in, ...). No sweep makes it worse. Raises ValueError when a rank is not in 1 .. its axis.
    Source: De Lathauwer et al. 2000, On the Best Rank-1 and Rank-(R1, R2, ..., RN) Approximation, section 4 (HOOI).
    """
    for rank, size in zip(ranks, tensor.shape, strict=False):
        if not 1 <= rank <= size:
            raise ValueError(f"rank {rank} is not in 1 .. {size}")
    tensor = np.asarray(tensor, dtype=np.float64)
    left = _basis(tensor)[:, : ranks[0]]
    right = _basis(tensor.swapaxes(0, 1))[:, : ranks[1]]
    total = float(np.sum(np.square(tensor)))
    kept = float(np.sum(np.square(_project(tensor, left, right))))
    for _ in range(sweeps):
        left = _basis(np.einsum("ts...,sq->tq...", tensor, right))[:, : ranks[0]]
        right = _basis(np.einsum("ts...,tp->sp...", tensor, left))[:, : ranks[1]]
        before, kept = kept, float(np.sum(np.square(_project(tensor, left, right))))
        if kept - before <= _TOLERANCE * total:
            break
    return Tucker(left, _project(tensor, left, right), right)


def _basis(tensor: np.ndarray) -> np.ndarray:
    """(n, n): orthonormal directions of the first axis, the strongest first."""
    unfolded = tensor.reshape(len(tensor), -1)
    values, vectors = scipy.linalg.eigh(unfolded @ unfolded.T)
    order = np.argsort(values)[::-1]
    basis: np.ndarray = vectors[:, order]
    return basis


def _project(tensor: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    core: np.ndarray = np.einsum("ts...,tp,sq->pq...", tensor, left, right, optimize=True)
    return core
