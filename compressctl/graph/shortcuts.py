"""Shortcuts without weights, every other pixel and channels of zeros beside them, as the one convolution that they are.

Residual networks for small images take them past the blocks that halve a map (He et al. 2016, Deep Residual Learning, section 4.2, option A). Exported they are two Slices and a Pad, none of
which runtimes have a kernel for in the layout of their convolutions, so that maps are turned around for them and the addition behind them stands alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, attribute, index


def shortcuts_as_convolutions(graph: onnx.GraphProto, channels: dict[str, int]) -> int:
    """In place, of the main graph. channels: of maps (n, channels, height, width), where they are known. Returns how many there were.

    Equal to the bit for finite values.
    """
    looked_up, editor = index(graph), GraphEditor(graph)
    taken: list[_Shortcut] = []

    def convolved(node: onnx.NodeProto) -> Replacement:
        found = _shortcut(node, looked_up, channels)
        if found is None:
            return None
        taken.append(found)
        weight = np.zeros((found.before + found.channels + found.after, found.channels, 1, 1), np.float32)
        weight[found.before + np.arange(found.channels), np.arange(found.channels)] = 1
        name = editor.constant(weight, node.output[0], "weight")
        made = helper.make_node("Conv", [found.tensor, name], list(node.output), node.name, kernel_shape=[1, 1])
        made.attribute.append(helper.make_attribute("strides", list(found.steps)))
        return [made]

    editor.replace_nodes(convolved)
    slices = {name for one in taken for name in one.slices}
    editor.replace_nodes(lambda node: [] if slices & set(node.output) else None)
    return len(taken)


@dataclass(frozen=True)
class _Shortcut:
    """tensor: what is read. slices: what stood between. steps: along height and width. before, after: channels of zeros."""

    tensor: str
    slices: tuple[str, ...]
    steps: tuple[int, int]
    channels: int
    before: int
    after: int


def _shortcut(node: onnx.NodeProto, looked_up: GraphIndex, channels: dict[str, int]) -> _Shortcut | None:
    zeros = _channels_of_zeros(node, looked_up)
    if zeros is None:
        return None
    tensor, slices, steps = node.input[0], [], (1, 1)
    while (maker := looked_up.producers.get(tensor)) is not None:
        taken = _steps(maker, looked_up) if looked_up.only_consumer(tensor) is not None else None
        if taken is None:
            break
        slices.append(tensor)
        tensor, steps = maker.input[0], (steps[0] * taken[0], steps[1] * taken[1])
    if steps == (1, 1) or tensor not in channels:
        return None
    return _Shortcut(tensor, tuple(slices), steps, channels[tensor], *zeros)


def _channels_of_zeros(node: onnx.NodeProto, looked_up: GraphIndex) -> tuple[int, int] | None:
    """How many a Pad of maps puts before and behind; None where it does anything else."""
    if node.op_type != "Pad" or node.domain or attribute(node, "mode", b"constant") != b"constant":
        return None
    given = [looked_up.array(name) if name else None for name in node.input[1:]]
    pads = given[0] if given else attribute(node, "pads")
    value = given[1] if len(given) > 1 and node.input[2] else np.asarray(attribute(node, "value", 0.0))
    axes = given[2] if len(given) > 2 and node.input[3] else np.arange(4)
    if pads is None or value is None or axes is None or np.any(value != 0):
        return None
    whole = np.zeros((2, 4), np.int64)
    sizes = np.asarray(pads, np.int64).reshape(2, -1)
    if sizes.shape[1] != len(axes):
        return None
    whole[:, np.asarray(axes) % 4] = sizes
    is_of_channels = not whole[:, [0, 2, 3]].any() and (whole >= 0).all() and whole.any()
    return (int(whole[0, 1]), int(whole[1, 1])) if is_of_channels else None


def _steps(node: onnx.NodeProto, looked_up: GraphIndex) -> tuple[int, int] | None:
    """Along height and width, of a Slice that takes every so many positions from the first on; None of any other node."""
    if node.op_type != "Slice" or len(node.input) < 4:
        return None
    starts, ends, axes = (looked_up.array(name) for name in node.input[1:4])
    steps = looked_up.array(node.input[4]) if len(node.input) > 4 else np.ones(1, np.int64)
    if starts is None or ends is None or axes is None or steps is None:
        return None
    is_whole = not starts.any() and (ends >= _TO_THE_END).all() and (steps >= 1).all()
    if not is_whole or not set((axes % 4).tolist()) <= {2, 3}:
        return None
    by_axis = dict(zip((axes % 4).tolist(), np.broadcast_to(steps, axes.shape).tolist(), strict=True))
    return int(by_axis.get(2, 1)), int(by_axis.get(3, 1))


_TO_THE_END = 2**31 - 1
"""What exporters write for it, or more."""
