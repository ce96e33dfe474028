"""Nodes of operators that ONNX Runtime does not bring."""

from __future__ import annotations

import onnx

from compressctl.graph.index import all_graphs
from compressctl.graph.tensors import copy_of

_BROUGHT = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"}


def is_custom(node: onnx.NodeProto) -> bool:
    """Whether no domain of ONNX Runtime has its operator; functions of the model itself have domains of their own, too."""
    return node.domain not in _BROUGHT


def custom_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Those that a library must bring, in the graph's bodies too; what the model defines itself is none of them."""
    own = {(function.domain, function.name) for function in model.functions}
    return [
        node
        for graph in all_graphs(model.graph)
        for node in graph.node
        if is_custom(node) and (node.domain, node.op_type) not in own
    ]


def operators(nodes: list[onnx.NodeProto]) -> str:
    """Each operator once, as in `ai.onnx.contrib.NegPos`."""
    return ", ".join(sorted({f"{node.domain}.{node.op_type}" for node in nodes}))


def with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that says of which type the outputs of such nodes are, which ONNX cannot infer. Raises what ONNX Runtime raises."""
    from compressctl.graph.session import open_graph

    names = [name for node in model.graph.node if is_custom(node) for name in node.output if name]
    opened, typed = copy_of(model), copy_of(model)
    known = {value.name for value in (*model.graph.output, *model.graph.value_info)}
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    for output in open_graph(opened).get_outputs():
        element = _ELEMENTS.get(output.type)
        if output.name not in known and element is not None:
            shape = None if not output.shape else [size if isinstance(size, int) else None for size in output.shape]
            typed.graph.value_info.append(onnx.helper.make_tensor_value_info(output.name, element, shape))
    return typed


_ELEMENTS = {
    f"tensor({name.lower()})": number for name, number in onnx.TensorProto.DataType.items() if name != "UNDEFINED"
}
