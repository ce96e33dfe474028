"""x * sigmoid(x) on floats that come from codes, as the one operator that ONNX Runtime has for it."""

from __future__ import annotations

import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import import_microsoft
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex


def write_swish(emitted: onnx.ModelProto) -> None:
    """Change in place every such product that is left in float.

    ONNX Runtime fuses it on its own where both factors read one tensor. Of a DequantizeLinear it makes a copy for each reader first.
    """
    editor = GraphEditor(emitted.graph)

    def written(node: onnx.NodeProto) -> Replacement:
        source = _gated(node, editor.here)
        if source is None:
            return None
        return [helper.make_node("QuickGelu", [source], node.output, node.name, domain="com.microsoft", alpha=1.0)]

    editor.replace_nodes(written)
    editor.drop_unread()
    import_microsoft(emitted)


def _gated(node: onnx.NodeProto, looked_up: GraphIndex) -> str | None:
    """The x of a Mul that gives x * sigmoid(x), where both x are the same codes."""
    if node.op_type != "Mul" or node.domain:
        return None
    for gate, value in (node.input, reversed(node.input)):
        sigmoid = looked_up.producers.get(gate)
        if sigmoid is None or sigmoid.op_type != "Sigmoid" or looked_up.only_consumer(gate) is None:
            continue
        ways = [looked_up.producers.get(name) for name in (sigmoid.input[0], value)]
        if all(way is not None and way.op_type == "DequantizeLinear" for way in ways):
            one, other = (list(way.input) for way in ways if way is not None)
            if one == other:
                return str(value)
    return None
