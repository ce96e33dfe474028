"""Who makes and who reads each tensor of an ONNX graph."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper


@dataclass(frozen=True)
class GraphIndex:
    """A reading aid over one graph; it does not follow later edits.

    producers: tensor name to the node that makes it. consumers: tensor name to the nodes that read it, in graph order.
    initializers: constants by name. outputs: names of the graph's outputs.
    """

    producers: dict[str, onnx.NodeProto]
    consumers: dict[str, list[onnx.NodeProto]]
    initializers: dict[str, onnx.TensorProto]
    outputs: frozenset[str]

    def array(self, name: str) -> np.ndarray | None:
        """A constant's value, None when the tensor is computed."""
        initializer = self.initializers.get(name)
        return None if initializer is None else numpy_helper.to_array(initializer)

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that alone reads a tensor; None when several do, or when it is also an output of the graph."""
        readers = self.consumers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def index(graph: onnx.GraphProto) -> GraphIndex:
    producers: dict[str, onnx.NodeProto] = {}
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for output in node.output:
            producers[output] = node
        for name in dict.fromkeys(node.input):
            if name:
                consumers[name].append(node)
    return GraphIndex(
        producers=producers,
        consumers=dict(consumers),
        initializers={tensor.name: tensor for tensor in graph.initializer},
        outputs=frozenset(output.name for output in graph.output),
    )


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """An attribute's Python value, or the default when the node does not carry it."""
    for candidate in node.attribute:
        if candidate.name == name:
            return onnx.helper.get_attribute_value(candidate)
    return default
