"""How the inputs of a layer vary together, added up batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


class Covariance:
    """The sum of x x^T over input vectors.

    matrix: (size, size) float64. rows: how many vectors it is the sum of.
    """

    def __init__(self, size: int) -> None:
        self.matrix = np.zeros((size, size))
        self.rows = 0

    def add(self, vectors: np.ndarray) -> None:
        """vectors: (n, size)."""
        taken = np.asarray(vectors, dtype=np.float64)
        self.matrix += taken.T @ taken
        self.rows += len(taken)


def patches(
    images: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    most: int | None = None,
) -> np.ndarray:
    """What a convolution multiplies with its weight at each place: (places of all samples, channels * product of kernel).

    images: (n, channels, ...). pads: zeros before each axis, then after each, as ONNX writes them. most: of more places than
    that, evenly spaced ones are taken. Elements stand in the order of a weight reshaped to (out, in * product of kernel).
    """
    axes = len(kernel)
    padded = np.pad(images, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    reach = tuple((size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    starts = tuple(slice(None, None, stride) for stride in strides)
    inside = tuple(slice(None, None, dilation) for dilation in dilations)
    windows = np.moveaxis(windows[(slice(None), slice(None), *starts, *inside)], 1, 1 + axes)
    places = windows.shape[: 1 + axes]
    chosen = np.unravel_index(evenly(math.prod(places), most), places)
    return windows[chosen].reshape(len(chosen[0]), -1)


def evenly(total: int, most: int | None) -> np.ndarray:
    """Indices into `total` things, at most `most` of them, evenly spaced."""
    if most is None or total <= most:
        return np.arange(total)
    return np.linspace(0, total - 1, most).astype(np.int64)
