"""Layers that follow each other directly, so that a channel's scale can move from one to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.graph.index import GraphIndex, attribute, index
from compressctl.graph.tensors import copy_of, from_array
from compressctl.numerics.equalize import between_layers

_HOMOGENEOUS = {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"}
"""f(s x) = s f(x) for s > 0, each channel by itself. Clip is not: its bound would have to differ by channel."""

_SWEEPS = 20
_SETTLED = 1e-3


@dataclass(frozen=True)
class Pair:
    """Names of nodes: what first makes is read by second alone, past nodes that keep a channel's scale."""

    first: str
    second: str


def equalizable(graph: onnx.GraphProto) -> list[Pair]:
    """Every pair of Conv and Gemm nodes whose weights and bias are constants of their own, in graph order."""
    found = index(graph)
    pairs = []
    for node in graph.node:
        if not _owns_weights(node, found):
            continue
        tensor = node.output[0]
        while (reader := found.only_consumer(tensor)) is not None and reader.op_type in _HOMOGENEOUS:
            tensor = reader.output[0]
        if reader is None or reader.input[0] != tensor or not _owns_weights(reader, found):
            continue
        if reader.op_type == node.op_type and _input_axis(reader, found) is not None:
            pairs.append(Pair(node.name, reader.name))
    return pairs


def equalized(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A copy that computes the same with equal weight ranges on both sides of every pair's channels, and the number of pairs.

    A layer may end one pair and begin the next, so all are visited until nothing moves by more than a thousandth.
    """
    changed = copy_of(model)
    pairs = equalizable(changed.graph)
    nodes = {node.name: node for node in changed.graph.node}
    found = index(changed.graph)
    arrays: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second)):
        for constant in nodes[name].input[1:]:
            values = found.array(constant)
            assert values is not None
            arrays[constant] = values.astype(np.float64)
    for _ in range(_SWEEPS):
        moved = [_equalize(nodes[pair.first], nodes[pair.second], arrays, found) for pair in pairs]
        if max(moved, default=0.0) < _SETTLED:
            break
    for tensor in changed.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return changed, len(pairs)


def _equalize(first: onnx.NodeProto, second: onnx.NodeProto, arrays: dict[str, np.ndarray], found: GraphIndex) -> float:
    """Move scale between two layers; how far the farthest channel's scale is from 1."""
    out_axis = 0 if first.op_type == "Conv" or attribute(first, "transB", 0) else 1
    in_axis = _input_axis(second, found)
    assert in_axis is not None
    scale = between_layers(_ranges(arrays[first.input[1]], out_axis), _ranges(arrays[second.input[1]], in_axis))
    arrays[first.input[1]] = arrays[first.input[1]] / _along(scale, out_axis, arrays[first.input[1]].ndim)
    if len(first.input) > 2:
        arrays[first.input[2]] = arrays[first.input[2]] / scale
    arrays[second.input[1]] = arrays[second.input[1]] * _along(scale, in_axis, arrays[second.input[1]].ndim)
    return float(np.abs(np.log(scale)).max(initial=0.0))


def _owns_weights(node: onnx.NodeProto, found: GraphIndex) -> bool:
    if node.op_type not in ("Conv", "Gemm") or any(not name for name in node.input):
        return False
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return False
    constants = node.input[1:]
    return all(
        name in found.initializers
        and found.initializers[name].data_type == onnx.TensorProto.FLOAT
        and len(found.consumers[name]) == 1
        for name in constants
    )


def _input_axis(node: onnx.NodeProto, found: GraphIndex) -> int | None:
    """The axis of a weight along which its input channels lie; None where they lie along none."""
    if node.op_type == "Gemm":
        return 1 if attribute(node, "transB", 0) else 0
    dims, groups = found.initializers[node.input[1]].dims, attribute(node, "group", 1)
    if groups == 1:
        return 1
    # A depthwise convolution reads channel i with filter i.
    return 0 if dims[1] == 1 and groups == dims[0] else None


def _ranges(values: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(np.abs(values).max(axis=tuple(other for other in range(values.ndim) if other != axis)))


def _along(scale: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return scale.reshape([-1 if dim == axis else 1 for dim in range(rank)])
