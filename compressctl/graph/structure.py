"""What decides how long a graph takes, as a digest: operators, shapes and types, and not what its layers have learned."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import onnx

from compressctl.core.model import OnnxModel
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.graph.index import reads
from compressctl.graph.tensors import to_array

_MOST_NUMBERS = 64
"""Of whole numbers that count by value: shapes, axes and pads are fewer; tables of tokens are more."""


def structure_digest(model: OnnxModel) -> str:
    """Equal for models that a runtime executes by the same kernels on the same shapes, whatever their tensors are called.

    Weights count by shape, type and how they are quantized, scalars and short lists of whole numbers by value. Where nodes
    stand in another order the digest may differ. Input shapes are the signature's.
    """
    graph = model.body.graph
    about: dict[str, Any] = {
        "opsets": sorted((entry.domain, entry.version) for entry in model.body.opset_import),
        "functions": [function.SerializeToString(deterministic=True).hex() for function in model.body.functions],
        "graph": _Names(model.quant or QuantPlan()).of_graph(graph),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class _Names:
    """Tensors by the order in which they are met. outer: of the graph around a body."""

    def __init__(self, plan: QuantPlan, outer: Mapping[str, Any] | None = None) -> None:
        self._plan = plan
        self._known: dict[str, Any] = dict(outer or {})
        self._count = len(self._known)

    def of_graph(self, graph: onnx.GraphProto) -> list[Any]:
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for sparse in graph.sparse_initializer:
            constants[sparse.values.name] = sparse.values
        found: list[Any] = []
        for value in graph.input:
            if value.name not in constants:
                found.append([self._new(value.name), value.type.SerializeToString(deterministic=True).hex()])
        for tensor in constants.values():
            self._known[tensor.name] = None  # of this graph, whatever the outer one calls so
        for node in graph.node:
            for name in reads(node):
                if name in constants and self._known[name] is None:
                    found.append([self._new(name), _constant(constants[name], self._plan.weights.get(name))])
            found.append(self._node(node))
        return [*found, [self._known.get(value.name, value.name) for value in graph.output]]

    def _new(self, name: str) -> str:
        self._count += 1
        self._known[name] = f"t{self._count}"
        return f"t{self._count}"

    def _node(self, node: onnx.NodeProto) -> list[Any]:
        reads = [self._known.get(name, name) for name in node.input]
        made = [self._new(name) if name else "" for name in node.output]
        attributes = [self._attribute(one) for one in sorted(node.attribute, key=lambda one: one.name)]
        rounded = [_quantized(self._plan.activations.get(name)) for name in [*node.input, *node.output]]
        how = [
            node.name in self._plan.float_nodes,
            node.name in self._plan.weights_alone,
            not self._plan.dynamic.isdisjoint([node.name, *node.output]),
        ]
        return [node.domain, node.op_type, reads, made, attributes, rounded, how]

    def _attribute(self, one: onnx.AttributeProto) -> list[Any]:
        if one.type == onnx.AttributeProto.GRAPH:
            return [one.name, _Names(self._plan, self._known).of_graph(one.g)]
        if one.type == onnx.AttributeProto.GRAPHS:
            return [one.name, [_Names(self._plan, self._known).of_graph(body) for body in one.graphs]]
        if one.type == onnx.AttributeProto.TENSOR:
            return [one.name, _constant(one.t, None)]
        return [one.name, one.SerializeToString(deterministic=True).hex()]


def _constant(tensor: onnx.TensorProto, quant: TensorQuant | None) -> list[Any]:
    elements = math.prod(tensor.dims)
    is_float = tensor.data_type in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    )
    counts = elements <= (1 if is_float else _MOST_NUMBERS)
    is_text = tensor.data_type == onnx.TensorProto.STRING
    values = to_array(tensor).tolist() if counts and not is_text else None
    return [list(tensor.dims), tensor.data_type, repr(values), _quantized(quant)]


def _quantized(quant: TensorQuant | None) -> list[Any] | None:
    if quant is None:
        return None
    return [quant.dtype, list(quant.scale.shape), quant.axis, quant.block, quant.quantized_min, quant.quantized_max]
