"""What an ONNX graph is made of, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from compressctl.core.count import Count
from compressctl.graph.constants import dtype_name
from compressctl.graph.cost import NodeCost, costs, total
from compressctl.graph.open_axes import OpenAxis, graph_inputs, is_open, open_axes
from compressctl.graph.quantized import Quantized, already_quantized
from compressctl.graph.tensors import all_tensors, size_bytes


@dataclass(frozen=True)
class Port:
    """An input or output. dtype: numpy's name, or ONNX's word for what is no tensor. shape: None where no rank is stated;
    a str is an open axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class Summary:
    """opsets: version by domain ("ai.onnx" for the standard one). open_axes: of the inputs. sizes: that MACs were counted for.

    stored_bytes: by element type, of all constants: initializers, Constant nodes, those in bodies (If, Loop, Scan), and the
    lists of numbers in operators of ai.onnx.ml. quantized: what is quantized already.
    """

    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[NodeCost, ...]
    stored_bytes: dict[str, int]
    quantized: tuple[Quantized, ...] = ()
    open_axes: tuple[OpenAxis, ...] = ()
    sizes: Mapping[str, int] | None = None

    @cached_property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @cached_property
    def parameter_bytes(self) -> int:
        return sum(layer.parameter_bytes for layer in self.layers)

    @cached_property
    def macs(self) -> Count:
        return total(self.layers)

    def size_share(self, layer: NodeCost) -> float:
        """0 to 1: this layer's part of all parameter bytes."""
        return layer.parameter_bytes / self.parameter_bytes if self.parameter_bytes else 0.0


def summarize(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> Summary:
    """Layers in graph order, costs for one sample. sizes: of open axes, as in `shapes`."""
    return Summary(
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        inputs=tuple(_port(value) for value in graph_inputs(model.graph)),
        outputs=tuple(_port(value) for value in model.graph.output),
        layers=tuple(costs(model, sizes)),
        stored_bytes=_stored(model),
        open_axes=tuple(open_axes(model.graph)),
        sizes=sizes or {},
        quantized=already_quantized(model),
    )


def _stored(model: onnx.ModelProto) -> dict[str, int]:
    stored: Counter[int] = Counter()
    for tensor in all_tensors(model):
        stored[tensor.data_type] += size_bytes(tensor)
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        if node.domain == "ai.onnx.ml":
            stored[onnx.TensorProto.FLOAT] += 4 * sum(len(entry.floats) for entry in node.attribute)
    return {dtype_name(kind): size for kind, size in stored.most_common() if size}


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return Port(value.name, type_in_words(value.type), None)
    if not tensor.HasField("shape"):
        return Port(value.name, dtype_name(tensor.elem_type), None)
    shape = tuple(dim.dim_param or "?" if is_open(dim) else dim.dim_value for dim in tensor.shape.dim)
    return Port(value.name, dtype_name(tensor.elem_type), shape)


def type_in_words(kind: onnx.TypeProto) -> str:
    """As in "sequence of map from int64 to float32"."""
    if kind.HasField("sequence_type"):
        return f"sequence of {type_in_words(kind.sequence_type.elem_type)}"
    if kind.HasField("optional_type"):
        return f"optional {type_in_words(kind.optional_type.elem_type)}"
    if kind.HasField("map_type"):
        return f"map from {dtype_name(kind.map_type.key_type)} to {type_in_words(kind.map_type.value_type)}"
    if kind.HasField("sparse_tensor_type"):
        return f"sparse {dtype_name(kind.sparse_tensor_type.elem_type)}"
    return dtype_name(kind.tensor_type.elem_type)
