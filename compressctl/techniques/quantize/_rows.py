"""The vectors that a layer's weights are multiplied with, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from compressctl.graph.index import attribute

MASK = "attention_mask"
"""The input by which language models are told which positions are padding; those say nothing about the data."""


def input_rows(
    values: np.ndarray, node: onnx.NodeProto, weight: Sequence[int], inputs: Mapping[str, np.ndarray], most: int
) -> np.ndarray:
    """(rows, columns): every vector that a layer's weights are multiplied with, or an even part of about `most` of them.

    values: what the node reads. weight: the weight's shape. inputs: the model's, among which MASK may be. Which rows are
    taken depends on shapes alone, so that two networks' rows of one batch belong together.
    """
    rows = _patches(values, node, weight[2:], most) if node.op_type == "Conv" else matrix_rows(values, inputs)
    # An odd stride visits every row and column of a feature map in turn.
    return rows[:: max(1, len(rows) // most) | 1] if len(rows) > most else rows


def matrix_rows(values: np.ndarray, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """(rows, channels): the vectors of a (..., channels) activation, without those of padding."""
    mask = inputs.get(MASK)
    if mask is not None and values.ndim == mask.ndim + 1 and values.shape[:-1] == mask.shape:
        values = values[mask > 0]
    return values.reshape(-1, values.shape[-1])


def _patches(values: np.ndarray, node: onnx.NodeProto, kernel: Sequence[int], most: int) -> np.ndarray:
    """(positions, channels * kernel) of a (batch, channels, ...) feature map, in the order of the weight's columns."""
    spatial = len(kernel)
    strides, dilations = (_per_axis(node, name, [1] * spatial) for name in ("strides", "dilations"))
    pads = _per_axis(node, "pads", [0] * 2 * spatial)
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        # How much depends on the size; patches inside the map are like those at its edge.
        pads = [0] * 2 * spatial
    padded = np.pad(values, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + spatial)))
    steps = [slice(None), slice(None), *(slice(None, None, step) for step in strides)]
    windows = windows[(*steps, *(slice(None, None, dilation) for dilation in dilations))]
    windows = np.moveaxis(windows, 1, 1 + spatial)
    positions = int(np.prod(windows.shape[: 1 + spatial]))
    if positions > most:
        # Before they are copied out: patches of a feature map take as many times its memory as the kernel has positions.
        chosen = np.unravel_index(np.arange(0, positions, (positions // most) | 1), windows.shape[: 1 + spatial])
        return np.ascontiguousarray(windows[chosen]).reshape(len(chosen[0]), -1)
    return np.ascontiguousarray(windows).reshape(positions, -1)


def _per_axis(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    found = attribute(node, name, default)
    assert isinstance(found, list)
    return found
