"""Weights that a stage gave other numbers: what each of them costs the output alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from compressctl.core.model import OnnxModel
from compressctl.core.quant import TensorQuant
from compressctl.diagnosis.causes import Found, largest, merged, run_of, weight_cause
from compressctl.diagnosis.noise import Focus, OutputNoise
from compressctl.graph.codes import weight_values
from compressctl.graph.index import index
from compressctl.graph.replace_weights import with_weights
from compressctl.graph.weight_nodes import find_weighted

_TRIED = 24


def changed_weight_causes(
    before: OnnxModel, after: OnnxModel, noise: OutputNoise, focus: Focus, progress: Callable[[int, int], None]
) -> list[Found]:
    """Nothing where the stage changed the structure: layers of other shapes do not compare one by one."""
    weights = _changed(before, after)
    order = sorted(weights, key=lambda name: -_relative(*weights[name]))[:_TRIED]
    if not order:
        return []

    def run(body: onnx.ModelProto) -> float:
        return focus.noise(noise.of(run_of(body, noise.names)), most=np.inf)

    start = run(before.body)
    whole = run(with_weights(before.body, {name: weights[name][1] for name in weights})) - start
    shares = {}
    for done, name in enumerate(order, start=1):
        alone = run(with_weights(before.body, {name: weights[name][1]})) - start
        shares[name] = max(alone, 0.0) / whole if whole > 0 else 0.0
        progress(done, len(order))
    layers = _layers(before.body)
    found = []
    for name in largest(shares):
        axis, nodes = layers.get(name, (0, ()))
        found.append(Found(weight_cause(name, *weights[name], axis, shares[name], nodes, _quant(after, name)), (name,)))
    return merged(found)


def _changed(before: OnnxModel, after: OnnxModel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By name, the numbers before and after, as the runtime computes with them."""
    one, two = index(before.body.graph), index(after.body.graph)
    found = {}
    for tensor in before.body.graph.initializer:
        values, others = one.array(tensor.name), two.array(tensor.name)
        if (
            values is None
            or others is None
            or values.dtype.kind != "f"
            or values.ndim < 2
            or values.shape != others.shape
        ):
            continue
        quant = _quant(after, tensor.name)
        others = others if quant is None else weight_values(others, quant)
        if not np.array_equal(values, others):
            found[tensor.name] = values, others.astype(values.dtype)
    return found


def _quant(model: OnnxModel, name: str) -> TensorQuant | None:
    return None if model.quant is None else model.quant.weights.get(name)


def _relative(values: np.ndarray, others: np.ndarray) -> float:
    signal = float(np.sum(values.astype(np.float64) ** 2))
    return float(np.sum((others.astype(np.float64) - values) ** 2)) / signal if signal else 0.0


def _layers(body: onnx.ModelProto) -> dict[str, tuple[int, tuple[str, ...]]]:
    """By weight, its axis of outputs and the nodes that read it."""
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for node in find_weighted(body.graph):
        axis, nodes = found.get(node.weight, (node.row_axis, ()))
        found[node.weight] = axis, (*nodes, node.node)
    return found
