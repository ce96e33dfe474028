"""x * sigmoid(x) in a graph: two nodes that are one activation."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from compressctl.graph.index import GraphIndex, index


def swishes(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """The Sigmoid and the Mul of each, where nothing else reads the sigmoid."""
    looked_up = index(graph)
    for node in graph.node:
        factors = gated(node, looked_up)
        if factors is not None and factors[0].input[0] == factors[1]:
            yield factors[0], node


def swish_inputs(graph: onnx.GraphProto) -> set[str]:
    """Each x that nothing else reads."""
    looked_up = index(graph)
    found = [sigmoid.input[0] for sigmoid, _ in swishes(graph)]
    return {name for name in found if len(looked_up.consumers[name]) == 2 and name not in looked_up.outputs}


def gated(node: onnx.NodeProto, looked_up: GraphIndex) -> tuple[onnx.NodeProto, str] | None:
    """The Sigmoid and the other factor of a Mul that alone reads that Sigmoid."""
    if node.op_type != "Mul" or node.domain:
        return None
    for gate, value in (node.input, reversed(node.input)):
        sigmoid = looked_up.producers.get(gate)
        if sigmoid is not None and sigmoid.op_type == "Sigmoid" and looked_up.only_consumer(gate) is not None:
            return sigmoid, value
    return None
