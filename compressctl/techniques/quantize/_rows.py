"""The vectors that a layer's weights are multiplied with, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from compressctl.layers.onnx_network import outline_of
from compressctl.numerics.second_moments import Picked, samples_of

MASK = "attention_mask"
"""The input by which language models are told which positions are padding; those say nothing about the data."""


class Rows(NamedTuple):
    """values: (rows, columns). samples: (rows,), which of the batch's samples each is of, rising."""

    values: np.ndarray
    samples: np.ndarray


def input_rows(
    values: np.ndarray, node: onnx.NodeProto, weight: Sequence[int], inputs: Mapping[str, np.ndarray], most: int
) -> Rows:
    """Every vector that a layer's weights are multiplied with, or an even part of about `most` of them.

    values: what the node reads. weight: the weight's shape. inputs: the model's, among which MASK may be. Which rows are
    taken depends on shapes alone, so that two networks' rows of one batch belong together.
    """

    def evenly(count: int) -> slice:
        # An odd stride visits every row and column of a feature map in turn.
        return slice(0, count, (count // most) | 1 if count > most else 1)

    if node.op_type != "Conv":
        rows = matrix_rows(values, inputs)
        return Rows(*(part[evenly(len(rows.values))] for part in rows))
    picked = Picked(lambda count: np.arange(count)[evenly(count)], len(values))
    # Columns in the order of the weight's: channel, then kernel position.
    patches = outline_of(node, tuple(weight)).rows(values, picked).swapaxes(1, 2)
    return Rows(patches.reshape(len(patches), -1), picked.samples)


def matrix_rows(values: np.ndarray, inputs: Mapping[str, np.ndarray]) -> Rows:
    """The vectors of a (..., channels) activation, without those of padding."""
    mask = inputs.get(MASK)
    if mask is not None and values.ndim == mask.ndim + 1 and values.shape[:-1] == mask.shape:
        return Rows(values[mask > 0], np.nonzero(mask > 0)[0])
    rows = values.reshape(-1, values.shape[-1])
    batch = next((len(array) for array in inputs.values() if array.ndim), 1)
    return Rows(rows, samples_of(np.arange(len(rows)), len(rows), batch))
