"""Scales that make channels alike before they are rounded: between two layers, or between activations and weights."""

from __future__ import annotations

import numpy as np

_SMALLEST = 1e-5
_WIDEST = 1e4
"""A channel that is all but dead on one side would otherwise be blown up until its rounding error drowns the rest."""


def between_layers(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """s (channels,): dividing the first layer's outputs and multiplying the second's inputs by it gives both equal ranges.

    first, second: (channels,), the largest |w| that makes, and that reads, each channel. A channel without weights on either side
    keeps scale 1. Source: Nagel et al. 2019, Data-Free Quantization, equation 11: s = sqrt(r1 r2) / r2.
    """
    alive = (first > 0) & (second > 0)
    scale = np.sqrt(np.where(alive, first, 1.0) / np.where(alive, second, 1.0))
    return np.asarray(np.clip(scale, 1 / _WIDEST, _WIDEST))


def smoothing(activation: np.ndarray, weight: np.ndarray, alpha: float) -> np.ndarray:
    """s (channels,): activations are divided by it and the weights that read them multiplied.

    activation: (channels,), the largest |x| seen. weight: (channels,), the largest |w| that meets it. alpha: 1 leaves the weights
    all of the difficulty, 0 the activations. Source: Xiao et al. 2022, SmoothQuant, equation 4: s = max|x|^a / max|w|^(1 - a).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, not between 0 and 1")
    scale = np.maximum(activation, _SMALLEST) ** alpha / np.maximum(weight, _SMALLEST) ** (1 - alpha)
    return np.asarray(np.clip(scale, 1 / _WIDEST, _WIDEST))
