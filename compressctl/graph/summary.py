"""What an ONNX graph is made of, as plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx

from compressctl.core.model import TensorSpec
from compressctl.graph.constants import constant_tensors
from compressctl.graph.cost import NodeCost, costs
from compressctl.graph.quantized import Quantized, already_quantized


@dataclass(frozen=True)
class Summary:
    """opsets: version by domain ("ai.onnx" for the standard one). stored_bytes: constants' bytes by element type.

    quantized: what is quantized already.
    """

    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[NodeCost, ...]
    stored_bytes: dict[str, int]
    quantized: tuple[Quantized, ...] = ()

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def parameter_bytes(self) -> int:
        return sum(layer.parameter_bytes for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def size_share(self, layer: NodeCost) -> float:
        """0 to 1: this layer's part of all parameter bytes."""
        return layer.parameter_bytes / self.parameter_bytes if self.parameter_bytes else 0.0


def summarize(model: onnx.ModelProto) -> Summary:
    """Layers in graph order, costs for one sample."""
    constants = constant_tensors(model.graph)
    stored: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        stored[_type_name(tensor.data_type)] += sum(part.size_bytes for part in constants[tensor.name])
    stored_names = {tensor.name for tensor in model.graph.initializer}
    return Summary(
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        inputs=tuple(_spec(value) for value in model.graph.input if value.name not in stored_names),
        outputs=tuple(_spec(value) for value in model.graph.output),
        layers=tuple(costs(model)),
        stored_bytes=dict(stored.most_common()),
        quantized=already_quantized(model),
    )


def _type_name(data_type: int) -> str:
    """numpy's names; ONNX says FLOAT and DOUBLE for two of them."""
    name = str(onnx.TensorProto.DataType.Name(data_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor_type = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor_type.shape.dim)
    return TensorSpec(value.name, _type_name(tensor_type.elem_type), shape)
