"""Float32 graphs in 16-bit floats, with what cannot be left alone: for runtimes that take the types that a graph says."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.core.patterns import matches
from compressctl.graph.custom_nodes import is_custom
from compressctl.graph.index import bodies, captured, rename_reads, store_what_is_read
from compressctl.graph.tensors import copy_of, from_array, to_array

OLDEST_OPSET = 19
"""QuantizeLinear and DequantizeLinear take float16 from here on."""

_NUMPY: dict[int, type] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
}

_LARGEST = 65504.0
_SMALLEST_NORMAL = 2.0**-14
_SINGLE_INPUTS = {"Resize": (1, 2)}
"""Inputs that ONNX wants in float32 whatever the others are."""

_SINGLE_OPS = frozenset({"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "EyeLike", "Range", "CumSum"})
"""What has a graph of its own inside, or makes floats of a type that an attribute says."""


def to_half(
    model: onnx.ModelProto, single: Sequence[str] = (), *, kind: int = TensorProto.FLOAT16, keep_io: bool = True
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy in 16-bit floats, and why each node that stayed float32 did.

    single: patterns over names and operator types of nodes that stay. kind: FLOAT16 or BFLOAT16. keep_io: the inputs and outputs
    stay float32. In float16 so do nodes with a constant beyond float16's range or a quantization scale
    below its smallest normal number, which would lose its digits. The opset must be 19 or newer for quantized graphs.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    floats = _float_tensors(typed.graph)
    made = copy_of(model)
    writer = _Writer({tensor.name: tensor for tensor in made.graph.initializer}, floats, kind)
    kept = {node.name: why for node in model.graph.node if (why := writer.must_stay(node, single))}
    for tensor in made.graph.input:
        is_float = tensor.name in floats and not keep_io
        writer.home[tensor.name] = kind if is_float else TensorProto.FLOAT
        if is_float:
            tensor.type.tensor_type.elem_type = kind
    for node in model.graph.node:
        writer.write(node, TensorProto.FLOAT if node.name in kept else kind)
    writer.close(made.graph.output, TensorProto.FLOAT if keep_io else kind)
    graph = made.graph
    del graph.node[:], graph.value_info[:]
    graph.node.extend(writer.nodes)
    store_what_is_read(graph, [*graph.initializer, *writer.halves.values()])
    return made, kept


def store_half(
    model: onnx.ModelProto, single: Sequence[str] = (), *, kind: int = TensorProto.FLOAT16
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy that stores its float constants in 16 bits and computes in float32, and why each constant that was not did not.

    Runtimes fold the Cast behind each constant when they load the file. single: patterns over names and operator types of
    nodes, and names of constants, that keep float32. Constants of fewer than 16 elements stay: a node would cost more. So do
    the scales of codes: every weight of a channel would move with its scale.
    """
    made = copy_of(model)
    graph = made.graph
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).extend((node.name, node.op_type))
    scales = {node.input[1] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    kept: dict[str, str] = {}
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < _FEWEST:
            continue
        values = to_array(tensor)
        names = [tensor.name, *readers.get(tensor.name, [])]
        if any(matches(pattern, names) for pattern in single):
            kept[tensor.name] = "asked for"
        elif tensor.name in scales:
            kept[tensor.name] = "the scale of codes"
        elif kind == TensorProto.FLOAT16 and np.abs(values).max() > _LARGEST:
            kept[tensor.name] = "beyond float16's range"
        else:
            casts.append(
                helper.make_node(
                    "Cast", [f"{tensor.name}_half"], [tensor.name], f"{tensor.name}_at_load", to=TensorProto.FLOAT
                )
            )
            tensor.CopyFrom(from_array(values.astype(_NUMPY[kind]), f"{tensor.name}_half"))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return made, kept


_FEWEST = 16


def to_single(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which what was float16 is float32: stored tensors, casts and constants. Inputs and outputs keep their names."""
    typed = onnx.shape_inference.infer_shapes(model).graph
    halves = {value.name for value in (*typed.input, *typed.output, *typed.value_info) if _is_half(value)}
    made = copy_of(model)
    stored = [tensor for tensor in made.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    if not halves and not stored:
        return made
    floats = halves | {tensor.name for tensor in stored} | _float_tensors(typed)
    for tensor in stored:
        tensor.CopyFrom(from_array(to_array(tensor).astype(np.float32), tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        if _is_half(value):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in made.graph.node:
        _retype(node, TensorProto.FLOAT16, TensorProto.FLOAT)
        if node.op_type == "Cast" and node.input[0] in floats and node.attribute[0].i == TensorProto.FLOAT:
            node.op_type = "Identity"
            del node.attribute[:]
        for body in bodies(node):
            _single_body(body)
    del made.graph.value_info[:]
    return made


def _single_body(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(from_array(to_array(tensor).astype(np.float32), tensor.name))
    for value in (*graph.input, *graph.output):
        if _is_half(value):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        _retype(node, TensorProto.FLOAT16, TensorProto.FLOAT)
        for body in bodies(node):
            _single_body(body)
    del graph.value_info[:]


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _float_tensors(graph: onnx.GraphProto) -> set[str]:
    values = [*graph.input, *graph.output, *graph.value_info]
    found = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


@dataclass
class _Writer:
    """home: the type in which each float tensor is made. halves: 16-bit copies of initializers. kind: FLOAT16 or
    BFLOAT16."""

    stored: dict[str, onnx.TensorProto]
    floats: Collection[str]
    kind: int
    home: dict[str, int] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    halves: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _cast: dict[tuple[str, int], str] = field(default_factory=dict)

    def must_stay(self, node: onnx.NodeProto, single: Sequence[str]) -> str | None:
        if any(matches(pattern, (node.name, node.op_type)) for pattern in single):
            return "asked for"
        if is_custom(node):
            return f"{node.op_type} is a library's operator"
        if node.op_type in _SINGLE_OPS:
            return f"{node.op_type} is not converted"
        if self.kind == TensorProto.BFLOAT16:
            # It has float32's range.
            return None
        for position, name in enumerate(node.input):
            tensor = self.stored.get(name)
            if tensor is None or tensor.data_type != TensorProto.FLOAT or (not tensor.dims and tensor.name == ""):
                continue
            values = np.abs(to_array(tensor))
            if values.size and values.max() > _LARGEST:
                return f"{name} is beyond float16's range"
            is_scale = node.op_type in ("QuantizeLinear", "DequantizeLinear") and position == 1
            if is_scale and values.min() < _SMALLEST_NORMAL:
                return f"{name} is below float16's smallest normal number"
        return None

    def write(self, node: onnx.NodeProto, wanted: int) -> None:
        written = onnx.NodeProto()
        written.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name in self.floats:
                single = position in _SINGLE_INPUTS.get(node.op_type, ())
                written.input[position] = self._as(name, TensorProto.FLOAT if single else wanted)
        rename_reads(
            written, {name: self._as(name, TensorProto.FLOAT) for name in captured(node) if name in self.floats}
        )
        if wanted == self.kind:
            _retype(written, TensorProto.FLOAT, self.kind)
        self.nodes.append(written)
        self.home.update(dict.fromkeys((name for name in node.output if name in self.floats), wanted))

    def close(self, outputs: Sequence[onnx.ValueInfoProto], wanted: int) -> None:
        """Float outputs keep their names and get the wanted type: what made them in another gets another name."""
        for output in outputs:
            if output.name not in self.floats:
                continue
            output.type.tensor_type.elem_type = wanted
            if self.home.get(output.name, TensorProto.FLOAT) == wanted:
                continue
            inner = f"{output.name}_half"
            for node in self.nodes:
                rename_reads(node, {output.name: inner})
                node.output[:] = [inner if name == output.name else name for name in node.output]
            self.nodes.append(helper.make_node("Cast", [inner], [output.name], f"{output.name}_cast", to=wanted))

    def _as(self, name: str, wanted: int) -> str:
        tensor = self.stored.get(name)
        if tensor is not None:
            if wanted == TensorProto.FLOAT:
                return name
            half = f"{name}_half"
            if half not in self.halves:
                values: np.ndarray = to_array(tensor).astype(_NUMPY[self.kind])
                self.halves[half] = from_array(values, half)
            return half
        if self.home.get(name, TensorProto.FLOAT) == wanted:
            return name
        key = (name, wanted)
        if key not in self._cast:
            self._cast[key] = f"{name}_{'half' if wanted == self.kind else 'single'}"
            self.nodes.append(helper.make_node("Cast", [name], [self._cast[key]], f"{self._cast[key]}_cast", to=wanted))
        return self._cast[key]


def _retype(node: onnx.NodeProto, old: int, new: int) -> None:
    """Types that the node states itself: a cast, a constant."""
    dtype = _NUMPY[new]
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == old:
            attribute.i = new
        elif attribute.name == "value" and attribute.HasField("t") and attribute.t.data_type == old:
            values: np.ndarray = to_array(attribute.t).astype(dtype)
            attribute.t.CopyFrom(from_array(values, attribute.t.name))
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            floats = [attribute.f] if attribute.name == "value_float" else list(attribute.floats)
            array: np.ndarray = np.asarray(floats, dtype)
            array = array.reshape(()) if attribute.name == "value_float" else array
            attribute.CopyFrom(helper.make_attribute("value", from_array(array, "value")))
