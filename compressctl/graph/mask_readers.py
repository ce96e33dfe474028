"""What reads the mask of a decoder outside of attention, as positions that are counted from it: with a cache, the end of it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import attribute, reads, rename_reads

_BY_TOKEN = frozenset(
    ("Abs", "Add", "And", "Cast", "Clip", "Div", "Equal", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "Sub", "Where")
)  # fmt: skip
_END = np.iinfo(np.int64).max


def read_ends(editor: GraphEditor, mask: str, past: str, written: set[str]) -> None:
    """Let nodes outside of attention read that part of the mask, or of what is counted from it, which belongs to the tokens of the call.

    mask: (batch, all tokens), an input. past: scalar, how many tokens came earlier. written: names of attention's own nodes. A count
    over all tokens (CumSum) stays one, so that positions go on where the earlier ones ended.
    """
    counted = _counted(editor, mask, written)

    def is_outside(node: onnx.NodeProto) -> bool:
        return node.name not in written and node.op_type != "Shape" and counted.isdisjoint(node.output)

    readers = [node for node in editor.graph.node if is_outside(node) and not counted.isdisjoint(reads(node))]
    if not readers:
        return
    bounds = [
        editor.constant(np.array([value], np.int64), "mask", part)
        for value, part in ((-1, "flat"), (_END, "end"), (1, "tokens"))
    ]
    names = {tensor: editor.name(tensor, "of_call") for node in readers for tensor in reads(node) if tensor in counted}
    outside, made = {node.name for node in readers}, set[str]()

    def ends(node: onnx.NodeProto) -> Replacement:
        if node.name not in outside:
            return None
        nodes: list[onnx.NodeProto] = []
        for tensor in reads(node):
            if tensor in counted and tensor not in made:
                made.add(tensor)
                start = editor.name(names[tensor], "start")
                nodes.append(helper.make_node("Reshape", [past, bounds[0]], [start], start))
                nodes.append(helper.make_node("Slice", [tensor, start, *bounds[1:]], [names[tensor]], names[tensor]))
        rename_reads(node, names)
        return [*nodes, node]

    editor.replace_nodes(ends)


def _counted(editor: GraphEditor, mask: str, written: set[str]) -> set[str]:
    """The mask, and tensors of its shape that are made of it and of single numbers, a token at a time or counted from the first on."""
    counted = {mask}
    for node in editor.graph.node:
        inputs = list(filter(None, node.input))
        if node.name in written or counted.isdisjoint(inputs):
            continue
        numbers = [name for name in inputs if name not in counted]
        if any((value := editor.array(name)) is None or value.size != 1 or value.ndim > 2 for name in numbers):
            continue
        if node.op_type in _BY_TOKEN or _counts_from_first(editor, node):
            counted |= set(node.output)
    return counted


def _counts_from_first(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether it adds up the mask from the first token on."""
    if node.op_type != "CumSum" or attribute(node, "reverse", 0):
        return False
    axis = editor.array(node.input[1])
    return axis is not None and int(axis.item()) in (1, -1)
