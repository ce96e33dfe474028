"""Weights stored as integers that Cast, perhaps Sub, and Mul turn into floats: what runtimes fold when they load a file.

DequantizeLinear says the same in one node, bit for bit, and no optimizer folds it away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.core.quant import TensorQuant
from compressctl.graph.constants import Constants, constant_tensors
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, attribute, bodies, index
from compressctl.graph.opset import opset_of
from compressctl.graph.tensors import copy_of, to_array

INTEGERS: Mapping[int, str] = {
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "uint4",
}
_OLDEST_OPSET = 13
"""DequantizeLinear knows a channel axis from here on, and 4 bits from 21 on."""
_OLDEST_FOUR_BITS = 21


@dataclass(frozen=True)
class CastWeight:
    """codes: the stored integers. result: the float tensor that the last node makes. steps: operator types, for messages.

    quant: what it means, None where scales or zero points are not those of a tensor, a channel or a block.
    """

    codes: str
    dtype: str
    result: str
    steps: tuple[str, ...]
    quant: TensorQuant | None


def cast_weights(
    graph: onnx.GraphProto, outer: GraphIndex | None = None, around: Constants | None = None
) -> list[CastWeight]:
    """Every float tensor that is made of stored 8-bit or 4-bit integers so, in graph order. outer, around: of the graphs around."""
    found, weights = index(graph, outer), []
    constant = {**(around or {}), **constant_tensors(graph, outer=around)}
    for node in graph.node:
        for body in bodies(node):
            weights += cast_weights(body, found, constant)
        if node.op_type != "Cast" or attribute(node, "to") not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            continue
        dtype = INTEGERS.get(_stored_type(node.input[0], found))
        if dtype is None:
            dtype = _unpacked_type(node.input[0], found) if node.input[0] in constant else None
        if dtype is not None:
            weights += [_read(node, dtype, reader, found) for reader in _scalings(node.output[0], found)]
    return weights


def as_dequantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which such weights are dequantized by one node; the model itself where there is none to say that of.

    Left as they are: those without a plain meaning, in 16-bit floats, or in an opset whose DequantizeLinear cannot say it.
    """
    opset = opset_of(model)
    weights = [weight for weight in cast_weights(model.graph) if _can_be_said(weight, opset, model.graph)]
    if not weights:
        return model
    made = copy_of(model)
    editor, by_result = GraphEditor(made.graph), {weight.result: weight for weight in weights}

    def dequantized(node: onnx.NodeProto) -> Replacement:
        weight = by_result.get(node.output[0]) if node.output else None
        return None if weight is None else [_dequantize(weight, node.name, editor)]

    editor.replace_nodes(dequantized)
    editor.drop_unread()
    return made


def _scalings(tensor: str, found: GraphIndex) -> list[tuple[onnx.NodeProto, onnx.NodeProto | None]]:
    """The Mul, and the Sub before it, by which codes that were cast become weights."""
    ends: list[tuple[onnx.NodeProto, onnx.NodeProto | None]] = []
    for reader in found.consumers.get(tensor, []):
        if reader.op_type == "Mul":
            ends.append((reader, None))
        elif reader.op_type == "Sub" and reader.input[0] == tensor:
            behind = found.consumers.get(reader.output[0], [])
            ends += [(node, reader) for node in behind if node.op_type == "Mul"]
    return [(mul, sub) for mul, sub in ends if _scale(mul, sub.output[0] if sub else tensor, found) is not None]


def _read(
    cast: onnx.NodeProto, dtype: str, ending: tuple[onnx.NodeProto, onnx.NodeProto | None], found: GraphIndex
) -> CastWeight:
    mul, sub = ending
    before = cast.output[0] if sub is None else sub.output[0]
    steps = ("Cast", "Mul") if sub is None else ("Cast", "Sub", "Mul")
    quant = None
    stored = found.initializers.get(cast.input[0])
    point = np.zeros((), np.float32) if sub is None else _constant(sub.input[1], found)
    scale = _scale(mul, before, found)
    if stored is not None and point is not None and scale is not None and attribute(cast, "to") == TensorProto.FLOAT:
        quant = _meaning(tuple(stored.dims), dtype, scale, point)
    return CastWeight(cast.input[0], dtype, mul.output[0], steps, quant)


def _scale(mul: onnx.NodeProto, codes: str, found: GraphIndex) -> np.ndarray | None:
    others = [name for name in mul.input if name != codes]
    return _constant(others[0], found) if len(others) == 1 else None


def _constant(name: str, found: GraphIndex) -> np.ndarray | None:
    """The value of an initializer or of a Constant node, perhaps cast."""
    maker = found.producers.get(name)
    if maker is not None and maker.op_type == "Cast":
        return _constant(maker.input[0], found)
    if maker is not None and maker.op_type == "Constant":
        value = attribute(maker, "value")
        return to_array(value) if isinstance(value, onnx.TensorProto) else None
    return found.array(name)


def _stored_type(name: str, found: GraphIndex) -> int:
    tensor = found.initializers.get(name)
    if tensor is None:
        maker = found.producers.get(name)
        value = attribute(maker, "value") if maker is not None and maker.op_type == "Constant" else None
        return value.data_type if isinstance(value, onnx.TensorProto) else TensorProto.UNDEFINED
    return int(tensor.data_type)


def _unpacked_type(name: str, found: GraphIndex) -> str | None:
    """The type of integers that nodes compute from stored ones: codes of few bits taken apart, or moved about."""
    while (maker := found.producers.get(name)) is not None and maker.input:
        name = maker.input[0]
    return INTEGERS.get(_stored_type(name, found))


def _meaning(shape: tuple[int, ...], dtype: str, scale: np.ndarray, point: np.ndarray) -> TensorQuant | None:
    """None where scales and zero points differ along more than one axis, or zero points are no codes."""
    stored_type = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(dtype.upper()))
    low, high = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}[dtype]
    whole = point.astype(np.float64)
    if np.any(whole != np.rint(whole)) or np.any((whole < low) | (whole > high)):
        return None
    axes = {axis for part in (scale, point) for axis in _varies_along(part, shape)}
    if len(axes) > 1 or any(part.ndim > len(shape) for part in (scale, point)):
        return None
    if not axes:
        scale, point = scale.reshape(()), whole.reshape(())
        return TensorQuant(dtype, scale.astype(np.float32), np.asarray(point).astype(stored_type))
    (axis,) = axes
    if any(part.size not in (1, shape[axis]) for part in (scale, point)):
        return None
    parts = [np.broadcast_to(part.reshape(-1), (shape[axis],)) for part in (scale, whole)]
    return TensorQuant(dtype, parts[0].astype(np.float32), parts[1].astype(stored_type), axis=axis)


def _varies_along(part: np.ndarray, shape: tuple[int, ...]) -> list[int]:
    """The axes of the whole tensor along which a part that broadcasts against it has more than one entry."""
    offset = len(shape) - part.ndim
    return [offset + axis for axis, size in enumerate(part.shape) if size > 1]


def _can_be_said(weight: CastWeight, opset: int, graph: onnx.GraphProto) -> bool:
    oldest = _OLDEST_FOUR_BITS if weight.dtype.endswith("4") else _OLDEST_OPSET
    return (
        weight.quant is not None and opset >= oldest and weight.result not in {output.name for output in graph.output}
    )


def _dequantize(weight: CastWeight, name: str, editor: GraphEditor) -> onnx.NodeProto:
    quant = weight.quant
    assert quant is not None
    inputs = [weight.codes, editor.constant(np.asarray(quant.scale, np.float32), weight.result, "scale")]
    if np.any(np.asarray(quant.zero_point, np.float32)):
        inputs.append(editor.constant(np.asarray(quant.zero_point), weight.result, "zero_point"))
    node = helper.make_node("DequantizeLinear", inputs, [weight.result], name)
    if quant.axis is not None:
        node.attribute.append(helper.make_attribute("axis", quant.axis))
    return node
