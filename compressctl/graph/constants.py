"""Which stored tensors each node computes with, through whatever the graph puts between them."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import onnx
from onnx import TensorProto

from compressctl.graph.computed_tables import is_computed_table
from compressctl.graph.index import attribute
from compressctl.graph.packed_sources import is_unpacker, packed_sources
from compressctl.graph.tensors import stored_bytes

_FLOATS = frozenset(
    number
    for name, number in TensorProto.DataType.items()
    if name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE") or name.startswith(("FLOAT8", "FLOAT4"))
)

_CODE_TYPES = frozenset(
    TensorProto.DataType.Value(name) for name in ("INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2")
)
"""Integers that nobody uses for shapes: where they are cast to floats they are codes of weights."""

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
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
    "MatMulNBits": (2, 3, 4),
    "GatherBlockQuantized": (2, 3),
    "QMoE": (3, 6),
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
    "DynamicQuantizeLSTM": (1, 2),
    "MatMulNBits": (1,),
    "GatherBlockQuantized": (0,),
    "QMoE": (2, 5),
}
"""Inputs whose integers stand for real numbers. Any other integer constant is a shape, an axis or an index."""

PACKED: Mapping[str, str] = {"MatMulNBits": "bits", "GatherBlockQuantized": "bits", "QMoE": "expert_weight_bits"}
"""Operators that pack several codes into a byte, and the attribute that says how many bits each has, 4 where it is left out."""


@dataclass(frozen=True)
class ConstantTensor:
    """name: with the scope that it stands in. dtype: numpy's name, of what is stored.

    describes: it takes room in the file but is no parameter: a scale, zero point or bound, or a table that a formula gives
    (see `computed_tables`).
    """

    name: str
    elements: int
    size_bytes: int
    is_float: bool
    describes: bool = False
    dtype: str = "float32"


Constants = Mapping[str, tuple[ConstantTensor, ...]]
"""Tensor name to the stored tensors that it is computed from alone."""


@dataclass(frozen=True)
class Scope:
    """A graph, or a body inside it. path: "" or the way to the body, as in "loop/body". within: the main graph's node."""

    path: str
    within: str | None
    graph: onnx.GraphProto
    constants: Constants


def scopes(graph: onnx.GraphProto) -> Iterator[Scope]:
    """The graph, then the bodies of its nodes (If, Loop, Scan), and theirs. A body sees what stands around it."""
    yield from _scopes(graph, "", None, {})


def _scopes(graph: onnx.GraphProto, path: str, within: str | None, outer: Constants) -> Iterator[Scope]:
    constants = {**outer, **constant_tensors(graph, path, outer)}
    yield Scope(path, within, graph, constants)
    for node in graph.node:
        for name, body in bodies(node) if node.attribute else ():
            called = node_name(node)
            inner = "/".join(part for part in (path, called, name) if part)
            yield from _scopes(body, inner, within or called, constants)


def bodies(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Its graphs by the attribute's name: then_branch, else_branch, body."""
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.name, entry.g
        for position, body in enumerate(entry.graphs):
            yield f"{entry.name}.{position}", body


def node_name(node: onnx.NodeProto) -> str:
    """As people and reports call it: that of its first output where it has none."""
    return node.name or next(iter(node.output), "")


def constant_tensors(
    graph: onnx.GraphProto, path: str = "", outer: Constants | None = None
) -> dict[str, tuple[ConstantTensor, ...]]:
    """What is constant in one graph, in initializers and in Constant nodes; tensors that depend on an input are missing.

    A packed tensor counts as stored itself, in the bytes of what it is unpacked from. outer: of the graphs around it. path:
    the scope's, which stands before the names of its tensors.
    """
    constants: dict[str, tuple[ConstantTensor, ...]] = {
        tensor.name: (_described(_scoped(path, tensor.name), tensor),) for tensor in graph.initializer
    }
    for sparse in graph.sparse_initializer:
        constants[sparse.values.name] = (_described_sparse(_scoped(path, sparse.values.name), sparse),)
    for name, source in packed_sources(graph).items():
        size = sum(part.size_bytes for stored in source.constants for part in constants.get(stored, ()))
        is_float = source.dtype.startswith("float")
        constants[name] = (ConstantTensor(name, math.prod(source.shape), size, is_float, dtype=source.dtype),)
    known = ChainMap(constants, dict(outer)) if outer else constants
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _stored_in(node, _scoped(path, node.output[0]))
            continue
        inputs = [name for name in node.input if name]
        if inputs and all(map(known.__contains__, inputs)) and not is_unpacker(node):
            sources = parameter_tensors(node, known)
            constants.update(dict.fromkeys((name for name in node.output if name), sources))
    return constants


def parameter_tensors(node: onnx.NodeProto, constants: Constants) -> tuple[ConstantTensor, ...]:
    """The stored tensors that a node computes with. Integers count where they stand for real numbers, shapes do not."""
    stored = [(position, name) for position, name in enumerate(node.input) if name in constants]
    if not stored:
        return ()
    found: dict[str, ConstantTensor] = {}
    op = node.op_type
    for position, name in stored:
        settings, codes = position in _SETTINGS.get(op, ()), position in CODES.get(op, ())
        codes = codes or (op in ("Cast", "CastLike") and position == 0 and _makes_float(node, constants))
        for tensor in constants[name]:
            if settings:
                found.setdefault(tensor.name, replace(tensor, describes=True))
            elif tensor.is_float or codes:
                found.setdefault(tensor.name, tensor if tensor.is_float else replace(tensor, is_float=True))
    return tuple(found.values())


@cache
def dtype_name(data_type: int) -> str:
    """numpy's names; ONNX says FLOAT and DOUBLE for two of them."""
    name = str(TensorProto.DataType.Name(data_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _scoped(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _makes_float(node: onnx.NodeProto, constants: Constants) -> bool:
    """A Cast of stored codes to floats."""
    stored = constants.get(node.input[0], ())
    if not stored or any(tensor.dtype not in _CODE_NAMES for tensor in stored):
        return False
    return node.op_type == "CastLike" or attribute(node, "to") in _FLOATS


_CODE_NAMES = frozenset(dtype_name(number) for number in _CODE_TYPES)


def _stored_in(node: onnx.NodeProto, name: str) -> tuple[ConstantTensor, ...]:
    """What a Constant node holds: a tensor, or plain numbers."""
    for entry in node.attribute:
        if entry.HasField("t"):
            return (_described(name, entry.t),)
        if entry.HasField("sparse_tensor"):
            return (_described_sparse(name, entry.sparse_tensor),)
        if entry.name in ("value_float", "value_floats"):
            count = len(entry.floats) if entry.name == "value_floats" else 1
            return (ConstantTensor(name, count, 4 * count, is_float=True),)
    return ()


def _described(name: str, tensor: onnx.TensorProto) -> ConstantTensor:
    elements, kind = math.prod(tensor.dims), tensor.data_type
    is_float = kind in _FLOATS
    is_table = is_float and is_computed_table(tensor)
    return ConstantTensor(name, elements, stored_bytes(elements, kind), is_float, is_table, dtype_name(kind))


def _described_sparse(name: str, sparse: onnx.SparseTensorProto) -> ConstantTensor:
    stored = math.prod(sparse.values.dims)
    size = stored_bytes(stored, sparse.values.data_type) + 8 * math.prod(sparse.indices.dims)
    kind = sparse.values.data_type
    return ConstantTensor(name, math.prod(sparse.dims), size, kind in _FLOATS, dtype=dtype_name(kind))
