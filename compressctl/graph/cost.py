"""What each node of an ONNX graph costs: parameters, their bytes, and multiply-accumulates for one sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.core.count import Count, count
from compressctl.graph.constants import ConstantTensor, Scope, node_name, parameter_tensors, scopes
from compressctl.graph.inlined import inlined
from compressctl.graph.macs import multiplies, node_macs
from compressctl.graph.packed_sources import is_unpacker
from compressctl.graph.runs import Runs, runs_of
from compressctl.graph.shapes import Shape


@dataclass(frozen=True)
class NodeCost:
    """output_shape: of the first output, for one sample; None when unknown, and None for an unknown dimension in it.

    parameters: elements of the constants that the node computes with (weights, biases, statistics of a normalization),
    each counted at the first node that reads it; scales, bounds and computed tables (see `ConstantTensor.describes`) are
    none. parameter_bytes: what the file stores for all of these. macs: multiply-accumulates; 0 for nodes that have none,
    None for those that multiply and whose shapes are unknown. within: the main graph's node in whose body this one stands;
    its name begins with the way there, as in "loop/body/matmul".
    """

    name: str
    op: str
    output_shape: Shape | None
    parameters: int
    parameter_bytes: int
    macs: int | None
    within: str | None = None


def costs(
    model: onnx.ModelProto,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> list[NodeCost]:
    """One entry per node, in graph order, those of bodies (If, Loop, Scan) behind the main graph's; nodes that unpack weights have none.

    Reads float graphs, graphs with QuantizeLinear and DequantizeLinear, and graphs of integer operators: a weight
    belongs to the node that computes with it, whatever stands between. MACs inside a body are those of all its runs, unknown where
    only running the model tells how many there are, or which branch is taken. sizes, inputs: as in `shapes`. values: of inputs
    that have the same one in every call.
    """
    plain = inlined(model)
    runs = runs_of(plain, sizes, inputs, values or {})
    seen: set[str] = set()
    return [
        _cost(node, scope, runs.get(scope.path, Runs({}, None)), seen)
        for scope in scopes(plain.graph)
        for node in scope.graph.node
        if not is_unpacker(node)
    ]


def count_macs(
    model: onnx.ModelProto,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> Count:
    """Multiply-accumulates of the whole graph for one sample, as far as they are known. sizes, inputs, values: as in `costs`."""
    return total(costs(model, sizes, inputs, values))


def total(counted: Sequence[NodeCost]) -> Count:
    return count((cost.op, cost.macs) for cost in counted)


def executed_macs(counted: Sequence[NodeCost]) -> dict[str, int | None]:
    """MACs by the main graph's nodes, as a runtime executes them: with those of their bodies."""
    found = {cost.name: cost.macs for cost in counted if cost.within is None}
    for cost in counted:
        if cost.within in found:
            so_far = found[cost.within]
            found[cost.within] = None if so_far is None or cost.macs is None else so_far + cost.macs
    return found


def _cost(node: onnx.NodeProto, scope: Scope, runs: Runs, seen: set[str]) -> NodeCost:
    mine = parameter_tensors(node, scope.constants)
    if node.domain == "ai.onnx.ml":
        mine += tuple(_in_attributes(node, scope))
    parameters = size = 0
    for tensor in mine:
        if tensor.name not in seen:
            seen.add(tensor.name)
            parameters += 0 if tensor.describes else tensor.elements
            size += tensor.size_bytes
    macs = node_macs(node, runs.shapes)
    if runs.times is None:
        macs = None if multiplies(node) else 0
    elif macs is not None or runs.times == 0:
        macs = runs.times * (macs or 0)
    return NodeCost(
        name=f"{scope.path}/{node_name(node)}" if scope.path else node_name(node),
        op=node.op_type,
        output_shape=runs.shapes.get(node.output[0]) if node.output else None,
        parameters=parameters,
        parameter_bytes=size,
        macs=macs,
        within=scope.within,
    )


def _in_attributes(node: onnx.NodeProto, scope: Scope) -> Iterator[ConstantTensor]:
    """Trees, linear models and scalers of ai.onnx.ml hold their numbers in lists of floats."""
    for entry in node.attribute:
        if entry.floats:
            size = len(entry.floats)
            yield ConstantTensor(f"{scope.path}/{node_name(node)}:{entry.name}", size, 4 * size, is_float=True)
