"""Tables that are looked up as codes and dequantized behind: as tables that are dequantized first, which says the same."""

from __future__ import annotations

import onnx
from onnx import helper

from compressctl.graph.index import GraphIndex, copied, index


def dequantize_first(graph: onnx.GraphProto) -> None:
    """Change in place every Gather of constant codes that a DequantizeLinear with one scale reads.

    Source: what ONNX Runtime's quantize_dynamic and quantize_static write for embeddings.
    """
    found = index(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        readers = _dequantizers(node, found)
        if not readers:
            nodes.append(node)
            continue
        for number, reader in enumerate(readers):
            table = f"{node.input[0]}_{reader.output[0]}"
            nodes.append(helper.make_node("DequantizeLinear", [node.input[0], *reader.input[1:]], [table], reader.name))
            lookup = copied(node)
            lookup.name, lookup.input[0], lookup.output[0] = (
                f"{node.name}_{number}" if number else node.name,
                table,
                reader.output[0],
            )
            nodes.append(lookup)
    moved = {node.output[0] for node in nodes if node.op_type == "Gather"}
    kept = [node for node in nodes if node.op_type != "DequantizeLinear" or node.output[0] not in moved]
    del graph.node[:]
    graph.node.extend(kept)


def _dequantizers(node: onnx.NodeProto, found: GraphIndex) -> list[onnx.NodeProto]:
    """What reads the codes that a Gather looks up, where that is dequantizing with one constant scale alone."""
    readers = found.consumers.get(node.output[0], [])
    is_lookup = node.op_type == "Gather" and node.input[0] in found.initializers
    if not is_lookup or any(reader.op_type != "DequantizeLinear" for reader in readers):
        return []
    scales = [found.array(reader.input[1]) for reader in readers]
    return readers if all(scale is not None and scale.size == 1 for scale in scales) else []
