"""Factorizing ONNX graphs: Conv, Gemm and MatMul with a constant weight become several of their kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compressctl.core.events import Events
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.float16 import in_floats_of
from compressctl.graph.index import GraphIndex, all_graphs, attribute, index
from compressctl.graph.shapes import Shape, shapes
from compressctl.graph.tensors import copy_of
from compressctl.layers.layer import Layer, Outline
from compressctl.layers.onnx_network import OnnxNetwork
from compressctl.techniques.factorize._pieces import Piece, Survey, measured

_OPS = ("Conv", "Gemm", "MatMul")


class OnnxChains:
    """model: a graph, which stays as it is; what is factorized is its simplified form. See `Factorizable`."""

    def __init__(self, model: OnnxModel, events: Events) -> None:
        self.network = OnnxNetwork(model, events)
        self._original = model.body

    def survey(self) -> Survey:
        known = {layer.owner: layer for layer in self.network.layers()}
        graph = self.network.body.graph
        looked_up, given = index(graph), shapes(self.network.body)
        layers, whole = [], {}
        for place, node in [(part, node) for part in all_graphs(graph) for node in part.node]:
            if node.op_type not in _OPS or node.input[1] not in looked_up.initializers:
                continue
            reason = self.network.skipped.get(node.input[1])
            if place is not graph:
                reason = reason or "it stands in a body of an If, Loop or Scan, where nothing can watch its input"
            reason = reason or _reason(node, looked_up, given)
            if reason is None:
                sample = tuple(int(size) for size in given[node.input[0]][1:] if size is not None)
                layers.append(measured(known[node.name], sample))
            else:
                whole[node.name] = reason
        return Survey(tuple(layers), whole)

    def with_pieces(self, chains: Mapping[str, Sequence[Piece]]) -> OnnxModel:
        body = copy_of(self.network.body)
        editor = GraphEditor(body.graph)

        def written(node: onnx.NodeProto) -> Replacement:
            if node.name not in chains:
                return None
            dtype = helper.tensor_dtype_to_np_dtype(editor.stored[node.input[1]].data_type)
            return write(chains[node.name], node.op_type, node.input[0], node.output[0], dtype, editor)

        editor.replace_nodes(written)
        return replace(self.network.model(), body=in_floats_of(body, self._original))


def write(
    pieces: Sequence[Piece], op: str, given: str, output: str, dtype: np.dtype[Any], editor: GraphEditor
) -> list[onnx.NodeProto]:
    """Nodes that compute a chain from one tensor to another. op: of the whole layer."""
    nodes: list[onnx.NodeProto] = []
    tensor = given
    for piece in pieces:
        name = piece.outline.name
        result = output if piece is pieces[-1] else editor.name(f"{name}/output")
        weight = piece.weight.T if op == "MatMul" else piece.weight
        inputs = [tensor, editor.constant(np.ascontiguousarray(weight, dtype=dtype), f"{name}.weight")]
        if piece.bias is not None:
            inputs.append(editor.constant(piece.bias.astype(dtype), f"{name}.bias"))
        nodes += _nodes(replace(piece.outline, name=editor.name(name)), op, inputs, result, editor)
        tensor = result
    return nodes


def alone(layer: Layer, pieces: Sequence[Piece] | None) -> OnnxModel:
    """A graph of nothing but a layer (None), or of its pieces, for inputs of the layer's shape: what it is timed with."""
    dtype = np.dtype("float32")  # networks in 16 bits are served in float32 unless the target says otherwise
    chain = (Piece(layer.outline, layer.weight, layer.bias),) if pieces is None else pieces
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    shape: tuple[int | str, ...] = ("batch", *layer.input_shape)
    graph = helper.make_graph(
        [],
        layer.owner or "layer",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("output", kind, ["batch", *[None] * (len(shape) - 1)])],
    )
    graph.node.extend(write(chain, _operator(layer), "input", "output", dtype, GraphEditor(graph)))
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    signature = Signature((TensorSpec("input", "float32", shape),), (TensorSpec("output", "float32", shape),))
    return OnnxModel(body, signature)


def _operator(layer: Layer) -> str:
    """The operator that a layer is in ONNX."""
    if not layer.is_linear:
        return "Conv"
    return "Gemm" if len(layer.input_shape) == 1 else "MatMul"


def _nodes(part: Outline, op: str, inputs: Sequence[str], output: str, editor: GraphEditor) -> list[onnx.NodeProto]:
    if op == "Conv":
        geometry: dict[str, Any] = {
            "strides": part.strides,
            "pads": part.pads,
            "dilations": part.dilations,
            "kernel_shape": part.kernel,
        }
        return [helper.make_node("Conv", inputs, [output], name=part.name, group=part.groups, **geometry)]
    if op == "Gemm":
        return [helper.make_node("Gemm", inputs, [output], name=part.name, transB=1)]
    if len(inputs) == 2:
        return [helper.make_node("MatMul", inputs, [output], name=part.name)]
    product = editor.name(f"{part.name}/product")
    return [
        helper.make_node("MatMul", inputs[:2], [product], name=part.name),
        helper.make_node("Add", [product, inputs[2]], [output], name=editor.name(f"{part.name}/Add")),
    ]


def _reason(node: onnx.NodeProto, looked_up: GraphIndex, known: Mapping[str, Shape]) -> str | None:
    """Why a node cannot be factorized."""
    if len(looked_up.consumers[node.input[1]]) > 1:
        return "its weight is tied to another layer's"
    if len(node.input) > 2 and node.input[2] and node.input[2] not in looked_up.initializers:
        return "its bias is computed"
    shape = known.get(node.input[0])
    if shape is None or None in shape[1:]:
        return "the shape of its input is not known without running the model"
    weight = looked_up.initializers[node.input[1]]
    if node.op_type == "Conv":
        return _conv_reason(node, len(weight.dims))
    if len(shape) < 2:
        return "its input has a single axis"
    if node.op_type == "Gemm" and (attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0):
        return "it scales or transposes its input"
    if (
        node.op_type == "Gemm"
        and len(node.input) > 2
        and (attribute(node, "beta", 1.0) != 1.0 or len(looked_up.initializers[node.input[2]].dims) != 1)
    ):
        return "its bias is no vector"
    return None


def _conv_reason(node: onnx.NodeProto, rank: int) -> str | None:
    groups = int(attribute(node, "group", 1))  # type: ignore[call-overload]
    if groups > 1:
        return f"it has {groups} groups: its weight is many small ones already"
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"", b"VALID"):
        return "its padding depends on the input (auto_pad)"
    return None if 3 <= rank <= 5 else "it has no spatial axes, or more than three"
