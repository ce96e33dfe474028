"""Where a graph keeps its parameters, in words: for a stage that finds none among them that it can change."""

from __future__ import annotations

from collections import Counter

import onnx

from compressctl.core.model import Model, OnnxModel
from compressctl.graph.constants import Scope, parameter_tensors, scopes
from compressctl.graph.packed_sources import is_unpacker

_SHOWN = 4


def layers_hint(model: Model) -> str:
    """What to say where a stage finds no layer: of a graph also where its parameters are."""
    where = f"{where_weights(model.body)}; " if isinstance(model, OnnxModel) else ""
    return f"{where}`compressctl inspect` lists the layers"


def where_weights(model: onnx.ModelProto) -> str:
    """As in "of its 98,560 parameters 98,304 are read by LSTM (float32), 256 by MatMul (float16, inside If)".

    The largest first, by operator, element type as stored, and the body that they stand in; a weight of a matrix product that
    has not two axes is said to have more.
    """
    places: Counter[str] = Counter()
    seen: set[str] = set()
    holders = {node.name or next(iter(node.output), ""): node.op_type for node in model.graph.node}
    for scope in scopes(model.graph):
        for node in scope.graph.node:
            if is_unpacker(node):
                continue
            for tensor in parameter_tensors(node, scope.constants):
                if tensor.describes or tensor.name in seen:
                    continue
                seen.add(tensor.name)
                inside = f", inside {holders.get(scope.within, 'a body')}" if scope.within is not None else ""
                places[f"{_reader(node, scope)} ({tensor.dtype}{inside})"] += tensor.elements
    for node in model.graph.node:
        if node.domain == "ai.onnx.ml":
            places[f"{node.op_type} (in attributes)"] += sum(len(entry.floats) for entry in node.attribute)
    found = [(place, elements) for place, elements in places.most_common() if elements]
    if not found:
        return "the graph stores no parameters"
    if len(found) == 1:
        return f"all of its {found[0][1]:,} parameters are read by {found[0][0]}"
    words = ", ".join(f"{elements:,} are read by {place}" for place, elements in found[:_SHOWN])
    others = sum(elements for _, elements in found[_SHOWN:])
    return f"of its {sum(places.values()):,} parameters {words}{f', {others:,} by other nodes' if others else ''}"


def _reader(node: onnx.NodeProto, scope: Scope) -> str:
    """The operator, with what keeps its weight from being a plain matrix."""
    dims = {tensor.name: len(tensor.dims) for tensor in scope.graph.initializer}
    axes = [dims[name] for name in node.input if name in dims]
    if node.op_type == "MatMul" and axes and axes[0] > 2:
        return f"MatMul with a weight of {axes[0]} axes"
    factors = [entry.f for entry in node.attribute if entry.name in ("alpha", "beta")]
    if node.op_type == "Gemm" and any(factor != 1.0 for factor in factors):
        return "Gemm with alpha or beta"
    return node.op_type
