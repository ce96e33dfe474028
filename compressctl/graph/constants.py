"""Which stored tensors each node computes with, through whatever the graph puts between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

from compressctl.graph.packed_sources import is_unpacker, packed_sources

_FLOATS = frozenset(onnx.TensorProto.DataType.Value(name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"))

_SETTINGS: Mapping[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Pad": (2,),
    "Resize": (1, 2),
    "Dropout": (1,),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "QLinearGlobalAveragePool": (1, 2, 3, 4),
    "QLinearAveragePool": (1, 2, 3, 4),
    "QLinearSigmoid": (1, 2, 3, 4),
    "QLinearLeakyRelu": (1, 2, 3, 4),
    "QLinearSoftmax": (1, 2, 3, 4),
    "QLinearConcat": (0, 1),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulNBits": (2, 3, 4),
    "GatherBlockQuantized": (2, 3),
}
"""Inputs that say how, not what with: bounds, ratios, scales and zero points."""

CODES: Mapping[str, tuple[int, ...]] = {
    "DequantizeLinear": (0,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3, 6),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
    "MatMulInteger": (0, 1),
    "ConvInteger": (1,),
    "MatMulIntegerToFloat": (1,),
    "DynamicQuantizeMatMul": (1,),
    "MatMulNBits": (1,),
    "GatherBlockQuantized": (0,),
}
"""Inputs whose integers stand for real numbers. Any other integer constant is a shape, an axis or an index."""


@dataclass(frozen=True)
class ConstantTensor:
    """describes: it is a scale, zero point or bound, which takes room in the file but is no parameter."""

    name: str
    elements: int
    size_bytes: int
    is_float: bool
    describes: bool = False


def constant_tensors(graph: onnx.GraphProto) -> dict[str, tuple[ConstantTensor, ...]]:
    """Tensor name to the stored tensors that it is computed from alone; tensors that depend on an input are missing.

    A packed tensor counts as stored itself, in the bytes of what it is unpacked from.
    """
    constants: dict[str, tuple[ConstantTensor, ...]] = {
        tensor.name: (_described(tensor.name, tensor),) for tensor in graph.initializer
    }
    for name, source in packed_sources(graph).items():
        size = sum(part.size_bytes for stored in source.constants for part in constants.get(stored, ()))
        constants[name] = (ConstantTensor(name, math.prod(source.shape), size, source.dtype.startswith("float")),)
    for node in graph.node:
        if is_unpacker(node):
            continue
        if node.op_type == "Constant":
            constants[node.output[0]] = tuple(
                _described(node.output[0], attribute.t) for attribute in node.attribute if attribute.HasField("t")
            )
        elif all(name in constants for name in node.input if name) and any(node.input):
            sources = parameter_tensors(node, constants)
            constants.update(dict.fromkeys((name for name in node.output if name), sources))
    return constants


def parameter_tensors(
    node: onnx.NodeProto, constants: Mapping[str, tuple[ConstantTensor, ...]]
) -> tuple[ConstantTensor, ...]:
    """The stored tensors that a node computes with. Integers count where they stand for real numbers, shapes do not."""
    found: dict[str, ConstantTensor] = {}
    for position, name in enumerate(node.input):
        settings, codes = position in _SETTINGS.get(node.op_type, ()), position in CODES.get(node.op_type, ())
        for tensor in constants.get(name, ()):
            if settings:
                found.setdefault(tensor.name, replace(tensor, describes=True))
            elif tensor.is_float or codes:
                found.setdefault(tensor.name, replace(tensor, is_float=True))
    return tuple(found.values())


def _described(name: str, tensor: onnx.TensorProto) -> ConstantTensor:
    elements = math.prod(tensor.dims)
    return ConstantTensor(name, elements, _stored_bytes(elements, tensor.data_type), tensor.data_type in _FLOATS)


def _stored_bytes(elements: int, data_type: int) -> int:
    """Four-bit types pack two to a byte, two-bit types four."""
    name = onnx.TensorProto.DataType.Name(data_type)
    bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "STRING": 0}.get(name)
    if bits is None:
        bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
    return (elements * bits + 7) // 8
