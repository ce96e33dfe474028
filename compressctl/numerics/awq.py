"""Scales for a layer's input channels, so that the weights that large inputs meet are rounded on a finer grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from compressctl.numerics.gptq import output_error

_EXPONENTS = np.linspace(0, 1, 21)[1:]


def awq_scale(
    weights: Sequence[np.ndarray],
    magnitude: np.ndarray,
    hessian: np.ndarray,
    rounded: Sequence[Callable[[np.ndarray, np.ndarray], np.ndarray]],
) -> tuple[np.ndarray | None, float]:
    """s (columns,) float32 with the least output error of Q(W s) on X / s, summed over layers that read the same input.

    weights: (rows, columns) each. magnitude: (columns,), the mean of |x|. hessian: (columns, columns), X X^T up to a factor.
    rounded: for each weight, what puts it on its grid when scaled, given it and the mean square of its inputs. Returns None instead of s when no
    exponent beats plain rounding, and the share of plain rounding's error that is left.
    Source: Lin et al. 2023, AWQ, section 3.2 (s = magnitude^a, a searched on a grid).
    """
    power = np.diag(hessian)

    def total(scale: np.ndarray) -> float:
        error = 0.0
        for weight, place in zip(weights, rounded, strict=True):
            scaled = weight * scale
            if not np.isfinite(scaled).all():
                return np.inf
            error += output_error(weight, place(scaled, power / scale**2) / scale, hessian)
        return error

    plain = total(np.ones(len(magnitude), np.float32))
    best, least = None, plain
    for exponent in _EXPONENTS:
        scale = np.maximum(magnitude, 1e-6 * max(float(magnitude.max()), 1e-30)) ** exponent
        scale = (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)
        error = total(scale)
        if error < least:
            best, least = scale, error
    return best, least / plain if plain > 0 else 1.0
