"""The vectors that a layer's weights are multiplied with, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from compressctl.layers.onnx_network import outline_of

MASK = "attention_mask"
"""The input by which language models are told which positions are padding; those say nothing about the data."""


def input_rows(
    values: np.ndarray, node: onnx.NodeProto, weight: Sequence[int], inputs: Mapping[str, np.ndarray], most: int
) -> np.ndarray:
    """(rows, columns): every vector that a layer's weights are multiplied with, or an even part of about `most` of them.

    values: what the node reads. weight: the weight's shape. inputs: the model's, among which MASK may be. Which rows are
    taken depends on shapes alone, so that two networks' rows of one batch belong together.
    """

    def evenly(count: int) -> slice:
        # An odd stride visits every row and column of a feature map in turn.
        return slice(0, count, (count // most) | 1 if count > most else 1)

    if node.op_type != "Conv":
        rows = matrix_rows(values, inputs)
        return rows[evenly(len(rows))]
    outline = outline_of(node, tuple(weight))
    # Columns in the order of the weight's: channel, then kernel position.
    patches = outline.rows(values, lambda count: np.arange(count)[evenly(count)]).swapaxes(1, 2)
    return patches.reshape(len(patches), -1)


def matrix_rows(values: np.ndarray, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """(rows, channels): the vectors of a (..., channels) activation, without those of padding."""
    mask = inputs.get(MASK)
    if mask is not None and values.ndim == mask.ndim + 1 and values.shape[:-1] == mask.shape:
        values = values[mask > 0]
    return values.reshape(-1, values.shape[-1])
