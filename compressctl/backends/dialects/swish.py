"""x * sigmoid(x) on floats that come from codes, as the one operator that ONNX Runtime has for it."""

from __future__ import annotations

import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import import_microsoft
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex
from compressctl.graph.swish import gated


def write_swish(emitted: onnx.ModelProto) -> None:
    """Change in place every such product that is left in float.

    ONNX Runtime fuses it on its own where both factors read one tensor. Of a DequantizeLinear it makes a copy for each reader first.
    """
    editor = GraphEditor(emitted.graph)

    def written(node: onnx.NodeProto) -> Replacement:
        source = _swished(node, editor.here)
        if source is None:
            return None
        return [helper.make_node("QuickGelu", [source], node.output, node.name, domain="com.microsoft", alpha=1.0)]

    editor.replace_nodes(written)
    editor.drop_unread()
    import_microsoft(emitted)


def _swished(node: onnx.NodeProto, looked_up: GraphIndex) -> str | None:
    """The x of a Mul that gives x * sigmoid(x), where both x are the same codes."""
    factors = gated(node, looked_up)
    if factors is None:
        return None
    sigmoid, value = factors
    one, other = (looked_up.producers.get(name) for name in (sigmoid.input[0], value))
    if one is None or other is None or {one.op_type, other.op_type} != {"DequantizeLinear"}:
        return None
    return value if list(one.input) == list(other.input) else None
