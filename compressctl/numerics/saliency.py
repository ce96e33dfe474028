"""What a weight is worth: scores of the shape of the weight, higher for what must stay."""

from __future__ import annotations

import numpy as np


def lamp(magnitudes: np.ndarray) -> np.ndarray:
    """Layer-adaptive scores, comparable over layers: w^2 over the sum of the squares that are not smaller.

    magnitudes: |w| of one layer, any shape. Returns float64 in 0 .. 1; the largest weight of every layer scores 1, so that
    no layer vanishes. Source: Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", equation 3.
    """
    squares = np.square(magnitudes.reshape(-1), dtype=np.float64)
    order = np.argsort(squares, kind="stable")
    remaining = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros(squares.size)
    scores[order] = np.divide(squares[order], remaining, out=np.zeros(squares.size), where=remaining > 0)
    return scores.reshape(magnitudes.shape)


def wanda(weight: np.ndarray, input_norms: np.ndarray) -> np.ndarray:
    """|w| times the norm of the input that it multiplies. weight: (out, ...). input_norms: the shape of one output's weights.

    Source: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models", equation 1.
    """
    return np.asarray(np.abs(weight) * input_norms)
