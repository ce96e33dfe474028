"""What an ONNX file stores as weights: element types, bytes, and how many of them stand for zero."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from compressctl.core.backend import StoredWeights
from compressctl.graph.constants import PACKED, Scope, constant_tensors, parameter_tensors, scopes
from compressctl.graph.index import attribute
from compressctl.graph.model_file import read_model
from compressctl.graph.packed_sources import packed_sources
from compressctl.graph.tensors import to_array
from compressctl.graph.unpack_constants import unpack_constants
from compressctl.numerics.bitpack import split_bits

_NAMES = {"float": "float32", "double": "float64"}
"""ONNX's names that are not the field's."""


def stored_weights(path: Path) -> list[StoredWeights]:
    """One entry per element type, the largest first, from the graph and the bodies in it (If, Loop, Scan).

    What is no parameter is left out: scales, zero points, tables that a formula gives.
    """
    stored = read_model(path)
    sources = packed_sources(stored.graph)
    model = unpack_constants(stored)
    constants = constant_tensors(stored.graph)
    parts = list(scopes(model.graph))
    tensors = {name: tensor for part in parts for name, tensor in _tensors(part)}
    seen: set[str] = set()
    found: dict[str, StoredWeights] = {}
    zero_points = _zero_points(model.graph, tensors)
    readers = [(node, {**part.constants, **constants}) for part in parts for node in part.graph.node]
    for node, known in readers:
        packed = _packed_bits(node)
        for parameter in parameter_tensors(node, known):
            if parameter.describes or parameter.name in seen or parameter.name not in tensors:
                continue
            seen.add(parameter.name)
            tensor = tensors[parameter.name]
            values = to_array(tensor)
            if packed is None or tensor.data_type != onnx.TensorProto.UINT8:
                name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
                dtype = f"{_NAMES.get(name, name)}{' (packed)' if parameter.name in sources else ''}"
                zeros = _zeros(values, zero_points.get(parameter.name))
            else:
                dtype, values = f"uint{packed} (packed)", split_bits(values, packed).reshape(-1)
                zeros = int(np.count_nonzero(values == 1 << (packed - 1)))
            old = found.get(dtype, StoredWeights(dtype, 0, 0, 0))
            found[dtype] = StoredWeights(
                dtype, old.elements + values.size, old.stored_bytes + parameter.size_bytes, old.zeros + zeros
            )
    return sorted(found.values(), key=lambda entry: -entry.stored_bytes)


def _tensors(scope: Scope) -> Iterator[tuple[str, onnx.TensorProto]]:
    """By the names that constants have: with the way to their scope."""
    prefix = f"{scope.path}/" if scope.path else ""
    for tensor in scope.graph.initializer:
        yield f"{prefix}{tensor.name}", tensor
    for node in scope.graph.node:
        for entry in node.attribute:
            if node.op_type == "Constant" and entry.HasField("t"):
                yield f"{prefix}{node.output[0]}", entry.t


def _zero_points(graph: onnx.GraphProto, tensors: dict[str, onnx.TensorProto]) -> dict[str, np.ndarray]:
    """By weight: the integer that stands for 0, shaped to broadcast against it."""
    found = {}
    for node in graph.node:
        if (
            node.op_type != "DequantizeLinear"
            or len(node.input) < 3
            or not {node.input[0], node.input[2]} <= set(tensors)
        ):
            continue
        point = to_array(tensors[node.input[2]])
        if point.size == 1:
            found[node.input[0]] = point.reshape(())
        elif point.ndim == 1:
            shape = [1] * len(tensors[node.input[0]].dims)
            shape[int(attribute(node, "axis", 1))] = -1  # type: ignore[call-overload]
            found[node.input[0]] = point.reshape(shape)
    return found


def _zeros(values: np.ndarray, zero_point: np.ndarray | None) -> int:
    if zero_point is None:
        return int(values.size - np.count_nonzero(values))
    return int(np.count_nonzero(values == zero_point))


def _packed_bits(node: onnx.NodeProto) -> int | None:
    """Of operators that pack several weights into a byte."""
    said = PACKED.get(node.op_type)
    return None if said is None else next((entry.i for entry in node.attribute if entry.name == said), 4)
