"""Factorizing ONNX graphs: Conv, Gemm and MatMul with a constant weight become several of their kind, LSTM, GRU and RNN get a product before them."""

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
from compressctl.graph.weight_nodes import RECURRENT
from compressctl.layers.layer import Layer, Outline
from compressctl.layers.onnx_network import OnnxNetwork
from compressctl.techniques.factorize._pieces import STATE_WEIGHT, Piece, Survey, measured

_OPS = ("Conv", "Gemm", "MatMul")


class OnnxChains:
    """model: a graph, which stays as it is; what is factorized is its simplified form. inputs: shapes of the call that is timed,
    empty where nobody knows. See `Factorizable`."""

    def __init__(self, model: OnnxModel, events: Events, inputs: Mapping[str, Sequence[int]]) -> None:
        self.network = OnnxNetwork(model, events, input_weights=True)
        self._original = model.body
        self._inputs = inputs if set(inputs) == {spec.name for spec in model.signature.inputs} else {}

    def survey(self) -> Survey:
        known = {layer.owner: layer for layer in self.network.layers()}
        graph = self.network.body.graph
        looked_up, given = index(graph), shapes(self.network.body, inputs=self._inputs)
        layers, whole = [], {}
        for place, node in [(part, node) for part in all_graphs(graph) for node in part.node]:
            if node.op_type not in (*_OPS, *RECURRENT) or node.input[1] not in looked_up.initializers:
                continue
            if node.op_type in RECURRENT:
                whole[node.input[2]] = STATE_WEIGHT
            reason = self.network.skipped.get(node.input[1])
            if place is not graph:
                reason = reason or "it stands in a body of an If, Loop or Scan, where nothing can watch its input"
            reason = reason or _reason(node, looked_up, given)
            if reason is None:
                layers.append(measured(known[node.name], _sample(node, given[node.input[0]])))
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
            if node.op_type in RECURRENT:
                return _projected(chains[node.name], node, dtype, editor)
            return write(chains[node.name], node.op_type, node.input[0], node.output[0], dtype, editor)

        editor.replace_nodes(written)
        return replace(self.network.model(), body=in_floats_of(body, self._original))


def _sample(node: onnx.NodeProto, shape: Shape) -> tuple[int, ...]:
    """Of a layer's input, for one sample. A recurrent layer's has steps, batch and elements, or (layout 1) the batch first."""
    sizes = [int(size or 1) for size in shape]
    if node.op_type in RECURRENT:
        return sizes[1 if attribute(node, "layout", 0) else 0], sizes[2]
    return tuple(sizes[1:])


def _projected(
    pieces: Sequence[Piece], whole: onnx.NodeProto, dtype: np.dtype[Any], editor: GraphEditor
) -> list[onnx.NodeProto]:
    """A recurrent layer whose inputs are projected first; the second piece has its input weights, those of all directions."""
    reduce, expand = pieces
    reduced = editor.name(f"{reduce.outline.name}/output")
    product = write([reduce], "MatMul", whole.input[0], reduced, dtype, editor)
    layer = onnx.NodeProto()
    layer.CopyFrom(whole)
    directions = editor.stored[whole.input[1]].dims[0]
    weight = expand.weight.reshape(directions, -1, expand.outline.shape[1])
    layer.input[0] = reduced
    layer.input[1] = editor.constant(np.ascontiguousarray(weight, dtype=dtype), f"{expand.outline.name}.weight")
    return [*product, layer]


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
    is_recurrent = node.op_type in RECURRENT
    if not is_recurrent and len(node.input) > 2 and node.input[2] and node.input[2] not in looked_up.initializers:
        return "its bias is computed"
    shape = known.get(node.input[0])
    if is_recurrent:
        steps = None if shape is None or len(shape) != 3 else shape[1 if attribute(node, "layout", 0) else 0]
        return None if steps is not None else "how many steps its input has is not known without running the model"
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
