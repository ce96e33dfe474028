"""Tables that are looked up as codes and dequantized behind: as tables that are dequantized first, which says the same."""

from __future__ import annotations

import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, copied


def dequantize_first(graph: onnx.GraphProto) -> None:
    """Change in place every Gather of constant codes that a DequantizeLinear with one scale reads.

    Source: what ONNX Runtime's quantize_dynamic and quantize_static write for embeddings.
    """
    editor = GraphEditor(graph)
    moved: set[str] = set()

    def swapped(node: onnx.NodeProto) -> Replacement:
        if node.op_type == "DequantizeLinear" and node.output[0] in moved:
            return []
        readers = _dequantizers(node, editor.here)
        nodes: list[onnx.NodeProto] = []
        for reader in readers:
            moved.add(reader.output[0])
            table, called = editor.name(node.input[0], reader.output[0]), editor.name(reader.name, "table")
            nodes.append(helper.make_node("DequantizeLinear", [node.input[0], *reader.input[1:]], [table], called))
            lookup = copied(node)
            lookup.name = node.name if reader is readers[0] else editor.name(node.name, reader.name)
            lookup.input[0], lookup.output[0] = table, reader.output[0]
            nodes.append(lookup)
        return nodes or None

    editor.replace_nodes(swapped)


def _dequantizers(node: onnx.NodeProto, found: GraphIndex) -> list[onnx.NodeProto]:
    """What reads the codes that a Gather looks up, where that is dequantizing with one constant scale alone."""
    readers = found.consumers.get(node.output[0], [])
    is_lookup = node.op_type == "Gather" and node.input[0] in found.initializers
    if not is_lookup or any(reader.op_type != "DequantizeLinear" for reader in readers):
        return []
    scales = [found.array(reader.input[1]) for reader in readers]
    return readers if all(scale is not None and scale.size == 1 for scale in scales) else []
