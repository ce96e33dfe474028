"""Arithmetic on shapes inside a graph, carried out where its inputs are known.

ONNX's own inference follows few operators on shapes. Exporters write others too: ConstantOfShape, Equal and Where in front of
an Expand, Div in front of a Reshape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from compressctl.graph.schema import opsets_of, schema_of


def fold_shapes(model: onnx.ModelProto, known: Mapping[str, tuple[int | None, ...]], largest: int) -> int:
    """Replace nodes whose value is known by constants, in place; how many. Only such whose outputs hold at most `largest` numbers.

    known: shapes by tensor, None for an unknown size. A Shape or Size of a tensor with a known shape has a value.
    """
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer if _has_data(tensor)}
    kept, folded = [], 0
    for node in graph.node:
        made = _values(node, values, known, largest, model)
        if made is None:
            kept.append(node)
            continue
        folded += 1
        for name, array in made.items():
            values[name] = numpy_helper.from_array(array, name)
            graph.initializer.append(values[name])
    del graph.node[:]
    graph.node.extend(kept)
    return folded


def _has_data(tensor: onnx.TensorProto) -> bool:
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    return tensor.HasField("raw_data") or any(len(getattr(tensor, field)) for field in fields) or 0 in tensor.dims


def _values(
    node: onnx.NodeProto,
    values: Mapping[str, onnx.TensorProto],
    known: Mapping[str, tuple[int | None, ...]],
    largest: int,
    model: onnx.ModelProto,
) -> dict[str, np.ndarray] | None:
    """The node's outputs by name, None where they are not known."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Shape", "Size"):
        shape = known.get(node.input[0])
        if shape is None or None in shape:
            return None
        sizes = [size for size in shape if size is not None]
        if node.op_type == "Size":
            return {node.output[0]: np.array(math.prod(sizes), np.int64)}
        start, end = (
            next((entry.i for entry in node.attribute if entry.name == name), None) for name in ("start", "end")
        )
        return {node.output[0]: np.array(sizes[start:end], np.int64)}
    if not all(name in values for name in node.input if name):
        return None
    schema = schema_of(node, opsets_of(model))
    if schema is None or not schema.is_deterministic:
        return None
    if not all(_elements(known.get(name)) <= largest for name in node.output if name):
        return None
    return _run(node, values, model)


def _elements(shape: tuple[int | None, ...] | None) -> float:
    return math.inf if shape is None or None in shape else math.prod(size for size in shape if size is not None)


def _run(
    node: onnx.NodeProto, values: Mapping[str, onnx.TensorProto], model: onnx.ModelProto
) -> dict[str, np.ndarray] | None:
    from onnx.reference import ReferenceEvaluator

    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    used = [values[name] for name in dict.fromkeys(node.input) if name]
    graph = onnx.helper.make_graph([node], "shape", [], outputs, used)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        made = ReferenceEvaluator(alone).run(None, {})
    except Exception:
        # An operator that the reference does not follow: its shape stays unknown.
        return None
    return {output.name: np.asarray(value) for output, value in zip(outputs, made, strict=True)}
