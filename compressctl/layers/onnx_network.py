"""The layers of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from compressctl.core.events import Events
from compressctl.core.model import OnnxModel
from compressctl.graph.carry import Carried, carry
from compressctl.graph.edit import names_in, unused
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.float16 import in_floats_of
from compressctl.graph.index import all_graphs, all_nodes, attribute, store_what_is_read
from compressctl.graph.opset import STANDARD
from compressctl.graph.simplify import simplify
from compressctl.graph.tensors import from_array, to_array
from compressctl.graph.weight_nodes import RECURRENT, WeightNode, find_weighted, weight_positions
from compressctl.layers.layer import Layer, Outline
from compressctl.layers.network import Inputs, See

_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}


@dataclass(frozen=True)
class _Owner:
    """The first node that reads a weight. is_transposed: the weight is stored as (in, out).

    is_inner: it stands in a body of an If, Loop or Scan, where nothing can watch its input. matrix: how a weight that is neither
    linear nor a convolution's is read as a matrix; its input is not watched.
    """

    node: onnx.NodeProto
    is_transposed: bool
    is_inner: bool
    matrix: WeightNode | None = None


class OnnxNetwork:
    """A copy of the model in which weights are constants, whatever computed them. Quantized ones are skipped. See `Network`."""

    batch_size = 8
    """What enters every layer is held at once."""

    def __init__(
        self,
        model: OnnxModel,
        events: Events,
        *,
        embeddings: bool = False,
        matrices: bool = False,
        any_order: bool = False,
        input_weights: bool = False,
    ) -> None:
        """input_weights: whether what recurrent layers multiply their inputs with is a layer, all directions as one."""
        carried = carry(model, simplify(model.body), events)
        self._original = model.body
        self.said = carried.said
        self._model = replace(model, body=carried.model, quant=carried.plan)
        self.body: onnx.ModelProto = carried.model
        self.signature = model.signature
        self._initializers = {tensor.name: tensor for tensor in self.body.graph.initializer}
        self._own_biases: set[str] = set()
        self._watches_sequences = input_weights
        read = _matrices(self.body, matrices) or _input_weights(self.body, input_weights)
        self._owners, self.skipped = _find(self.body.graph, embeddings, any_order, carried, read)

    def layers(self) -> list[Layer]:
        return [self._layer(name, owner) for name, owner in self._owners.items()]

    def write(self, name: str, weight: np.ndarray) -> None:
        tensor = self._initializers[name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        owner = self._owners[name]
        array = (
            owner.matrix.stored(weight, tensor.dims) if owner.matrix else weight.T if owner.is_transposed else weight
        )
        tensor.CopyFrom(from_array(np.ascontiguousarray(array).astype(dtype), name))

    def shift(self, name: str, change: np.ndarray) -> None:
        """Convolutions and Gemm have a place for a bias; it becomes a constant of the node's own."""
        node, tensor = self._owners[name].node, self._initializers[name]
        shared = sum(name in other.input for other in all_nodes(self.body.graph)) > 1
        if (
            node.op_type in ("MatMul", "Gather")
            or self._owners[name].matrix is not None
            or shared
            or attribute(node, "alpha", 1.0) != 1.0
            or attribute(node, "beta", 1.0) != 1.0
        ):
            return
        old = node.input[2] if len(node.input) > 2 else ""
        given = to_array(self._initializers[old]) if old in self._initializers else np.zeros(1, np.float32)
        if (old and old not in self._initializers) or given.size not in (1, change.size):
            return
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        values = (given.reshape(-1) + change).astype(dtype)
        if old in self._own_biases:
            self._initializers[old].CopyFrom(from_array(values, old))
            return
        own = unused(f"{name}.shifted_bias", names_in(self.body.graph))
        self._own_biases.add(own)
        bias = from_array(values, own)
        del node.input[2:]
        node.input.append(own)
        self.body.graph.initializer.append(bias)
        self._initializers[own] = self.body.graph.initializer[-1]

    def watch(self, names: Sequence[str], batches: Iterable[Inputs], see: See) -> None:
        owners = {name: self._owners[name] for name in names}
        nodes = {
            name: owner.node
            for name, owner in owners.items()
            if not owner.is_inner and (owner.matrix is None or self._watches_sequences)
        }
        entering = {name: node.input[0] for name, node in nodes.items() if node.op_type != "Gather"}
        tapped = ActivationRecorder(self.body, list(dict.fromkeys(entering.values())))
        for inputs in batches:
            values = tapped.run(inputs)
            for name, entry in entering.items():
                entered = values[entry].astype(np.float32)
                see(name, entered.T if attribute(nodes[name], "transA", 0) else entered)

    def outputs(self, inputs: Inputs) -> Mapping[str, np.ndarray]:
        return ActivationRecorder(self.body, [spec.name for spec in self.signature.outputs], threads=1).run(inputs)

    def model(self) -> OnnxModel:
        """Without the biases that others have replaced, in the floats of the model that it is a copy of."""
        store_what_is_read(self.body.graph)
        self._initializers = {tensor.name: tensor for tensor in self.body.graph.initializer}
        return replace(self._model, body=in_floats_of(self.body, self._original))

    def _layer(self, name: str, owner: _Owner) -> Layer:
        array = self._float(name)
        if owner.matrix is not None:
            matrix = np.ascontiguousarray(owner.matrix.matrix(array))
            return Layer(name, owner.node.op_type, Outline(owner.node.name, matrix.shape), matrix)
        weight = array.T if owner.is_transposed else array
        own_bias = (
            owner.node.op_type != "Gather" and len(owner.node.input) > 2 and owner.node.input[2] in self._initializers
        )
        bias = self._float(owner.node.input[2]) if own_bias else None
        return Layer(name, owner.node.op_type, outline_of(owner.node, weight.shape), weight, bias)

    def _float(self, name: str) -> np.ndarray:
        """Mapped where the numbers stand in a file: all layers together take no memory."""
        array = to_array(self._initializers[name])
        return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


def outline_of(node: onnx.NodeProto, shape: tuple[int, ...]) -> Outline:
    """shape: of the weight, outputs first."""
    if node.op_type != "Conv":
        return Outline(node.name, shape)
    axes = len(shape) - 2
    defaults = {"strides": (1,) * axes, "pads": (0,) * 2 * axes, "dilations": (1,) * axes}
    geometry: dict[str, Any] = {name: tuple(attribute(node, name, default)) for name, default in defaults.items()}  # type: ignore[arg-type]
    mode = attribute(node, "auto_pad")
    auto_pad = mode.decode() if mode in (b"SAME_UPPER", b"SAME_LOWER") else ""
    return Outline(node.name, shape, **geometry, groups=int(attribute(node, "group", 1)), auto_pad=auto_pad)  # type: ignore[call-overload]


def is_transposed(node: onnx.NodeProto) -> bool:
    """Whether a matrix product's weight is stored as (in, out)."""
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))


def _matrices(body: onnx.ModelProto, wanted: bool) -> dict[tuple[str, str], WeightNode]:
    """By node and weight: recurrent layers, transposed convolutions and stacked products, where they are wanted."""
    nodes = find_weighted(body.graph) if wanted else []
    return {(node.node, node.weight): node for node in nodes if node.stacked or node.op == "ConvTranspose"}


def _input_weights(body: onnx.ModelProto, wanted: bool) -> dict[tuple[str, str], WeightNode]:
    """By node and weight, the matrices that recurrent layers multiply their inputs with, where they are wanted."""
    if not wanted:
        return {}
    first = {node.name: node.input[1] for node in all_nodes(body.graph) if node.op_type in RECURRENT}
    return {key: node for key, node in _matrices(body, True).items() if first.get(node.node) == node.weight}


def _find(
    graph: onnx.GraphProto,
    embeddings: bool,
    any_order: bool,
    carried: Carried,
    matrices: Mapping[tuple[str, str], WeightNode],
) -> tuple[dict[str, _Owner], dict[str, str]]:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    owners: dict[str, _Owner] = {}
    skipped: dict[str, str] = {}
    ways: dict[str, set[bool]] = {}
    for node in all_nodes(graph):
        if node.op_type in ("Gemm", "MatMul"):
            ways.setdefault(node.input[1], set()).add(is_transposed(node))
    for place, node in [(part, node) for part in all_graphs(graph) for node in part.node]:
        if node.op_type not in _OPERATORS or node.domain not in STANDARD:
            continue
        for name in [node.input[position] for position in weight_positions(node)]:
            tensor = stored.get(name)
            if tensor is None or tensor.data_type not in _FLOATS or len(tensor.dims) < 2:
                continue
            matrix = matrices.get((node.name, name))
            reason = "quantized already" if name in carried.weights else None
            reason = reason or (None if matrix is not None else _reason(node, tensor, embeddings))
            if reason is None and len(ways.get(name, ())) > 1 and not any_order:
                reason = "two nodes read it in different orders"
            if reason is not None:
                skipped[name] = reason
            else:
                owners.setdefault(name, _Owner(node, is_transposed(node), place is not graph, matrix))
    return {name: owner for name, owner in owners.items() if name not in skipped}, skipped


_OPERATORS = ("Conv", "Gemm", "MatMul", "ConvTranspose", "Gather", *RECURRENT)


def _reason(node: onnx.NodeProto, tensor: onnx.TensorProto, embeddings: bool) -> str | None:
    """Why a weight is no layer's, None where it is one's."""
    if node.op_type == "Gather":
        if attribute(node, "axis", 0) != 0 or len(tensor.dims) != 2:
            return "a constant of which parts are taken"
        return None if embeddings else "an embedding table; `embeddings: true` takes it too"
    if node.op_type == "ConvTranspose":
        return "a transposed convolution"
    if node.op_type in RECURRENT:
        return "a recurrent layer's: what it multiplies is a state of its own"
    if node.op_type == "MatMul" and len(tensor.dims) != 2:
        return f"a product of {len(tensor.dims)} axes"
    return None
