"""What a convolution multiplies its weights with, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def patches(
    inputs: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """The inputs under the kernel at each output position: (samples * output positions, kernel positions, channels).

    inputs: (samples, channels, *spatial), padded with zeros: pads holds what comes before and after each spatial axis.
    rows: indices of the output positions that are wanted, over all samples in order; all of them by default.
    """
    padded = np.pad(inputs, [(0, 0), (0, 0), *pads])
    axes = tuple(range(2, padded.ndim))
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    stepped = tuple(slice(None, None, stride) for stride in strides)
    thinned = tuple(slice(None, None, dilation) for dilation in dilations)
    seen = seen[(slice(None), slice(None), *stepped, *thinned)]
    places = (seen.shape[0], *seen.shape[2 : 2 + len(axes)])
    wanted = np.arange(np.prod(places)) if rows is None else rows
    sample, *where = np.unravel_index(wanted, places)
    chosen: tuple[Any, ...] = (sample, slice(None), *where)
    found = seen[chosen]
    return np.moveaxis(found.reshape(len(wanted), inputs.shape[1], -1), 1, 2)


def output_positions(
    inputs: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
) -> int:
    """How many rows `patches` has when all are wanted."""
    count = len(inputs)
    for axis, size in enumerate(inputs.shape[2:]):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        count *= max((size + sum(pads[axis]) - reach) // strides[axis] + 1, 0)
    return count
