"""The rank of a matrix beneath noise, without anything to tune: empirical variational Bayesian matrix factorization.

Source: Nakajima, Sugiyama, Babacan and Tomioka 2013, Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization, section 4 and theorem 4. Used for the ranks of network layers by Kim et al. 2016, section 3.2.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy.optimize import brentq, minimize_scalar

_GRID = 200
"""Noise levels that are tried before the best is refined: the free energy has kinks, so that a bounded search alone may
end in another valley than the deepest."""


def evbmf_rank(matrix: np.ndarray) -> int:
    """The number of singular values above the noise, 0 when everything looks like noise.

    matrix: (rows, columns), signal of low rank plus noise of one unknown variance in every element.
    """
    values = np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)
    short, long = sorted(matrix.shape)
    if short == 0 or not np.any(values > 0.0):
        return 0
    variance = noise_variance(values, short, long)
    return int(np.sum(np.square(values) > long * variance * _least_signal(short / long)))


def noise_variance(values: np.ndarray, short: int, long: int) -> float:
    """The variance of the noise that minimises the free energy.

    values: (short,), the singular values of a short x long matrix, falling, not all zero.
    """
    squares = np.square(values) / long
    alpha = short / long
    signal = _least_signal(alpha)
    most = min(math.ceil(short / (1.0 + alpha)) - 1, short)  # no more components than that are ever kept
    tail = squares[most:]
    low = max(float(tail[0]) / signal if len(tail) else 0.0, float(tail.mean()) if len(tail) else 0.0)
    high = float(squares.mean())
    low = max(low, high * 1e-12)
    if low >= high:
        return high

    def energy(log_variance: float) -> float:
        return _free_energy(squares / math.exp(log_variance), alpha, signal)

    grid = np.linspace(math.log(low), math.log(high), _GRID)
    best = int(np.argmin([energy(point) for point in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)])
    refined = minimize_scalar(energy, bounds=around, method="bounded").x
    return math.exp(min((refined, grid[best]), key=energy))


def _free_energy(scaled: np.ndarray, alpha: float, signal: float) -> float:
    """Up to a constant. scaled: squared singular values over (long * variance)."""
    total = float(np.sum(scaled - np.log(np.maximum(scaled, 1e-300))))
    kept = scaled[scaled > signal]
    excess = kept - (1.0 + alpha)
    tau = 0.5 * (excess + np.sqrt(np.maximum(np.square(excess) - 4.0 * alpha, 0.0)))
    return total + float(np.sum(np.log(tau + 1.0) + alpha * np.log(tau / alpha + 1.0) - tau))


@functools.cache
def _least_signal(alpha: float) -> float:
    """The squared singular value over (long * variance) from which a component is kept.

    Near (1 + t)(1 + alpha / t) with t = 2.5129 sqrt(alpha), the paper's approximation of the root that is solved for here.
    """

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    guess = 2.5129 * math.sqrt(alpha)
    tau = float(brentq(lambda t: phi(t) + phi(t / alpha), guess / 10.0, guess * 10.0))
    return (1.0 + tau) * (1.0 + alpha / tau)
