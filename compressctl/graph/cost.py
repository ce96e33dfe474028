"""What each node of an ONNX graph costs: parameters, their bytes, and multiply-accumulates for one sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx

from compressctl.graph.constants import constant_tensors, parameter_tensors
from compressctl.graph.packed_sources import is_unpacker
from compressctl.graph.shapes import Shape, shapes


@dataclass(frozen=True)
class NodeCost:
    """output_shape: of the first output, for one sample; None when unknown, and None for an unknown dimension in it.

    parameters: elements of the constants that the node computes with (weights, biases, statistics of a normalization),
    each counted at the first node that reads it. parameter_bytes: what the file stores for them, scales and zero points
    included. macs: multiply-accumulates; 0 for nodes that have none and for nodes whose shapes are unknown.
    """

    name: str
    op: str
    output_shape: Shape | None
    parameters: int
    parameter_bytes: int
    macs: int


def costs(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> list[NodeCost]:
    """One entry per node, in graph order; the nodes of subgraphs (If, Loop) are not looked into, nor those that unpack weights.

    Reads float graphs, graphs with QuantizeLinear and DequantizeLinear, and graphs of integer operators: a weight
    belongs to the node that computes with it, whatever stands between. sizes: as in `shapes`.
    """
    known = shapes(model, sizes)
    seen: set[str] = set()
    constants = constant_tensors(model.graph)
    result = []
    for node in model.graph.node:
        if is_unpacker(node):
            continue
        fresh = [tensor for tensor in parameter_tensors(node, constants) if tensor.name not in seen]
        seen.update(tensor.name for tensor in fresh)
        result.append(
            NodeCost(
                name=node.name or next(iter(node.output), ""),
                op=node.op_type,
                output_shape=known.get(node.output[0]) if node.output else None,
                parameters=sum(tensor.elements for tensor in fresh if not tensor.describes),
                parameter_bytes=sum(tensor.size_bytes for tensor in fresh),
                macs=node_macs(node, known),
            )
        )
    return result


def total_parameters(model: onnx.ModelProto) -> int:
    return sum(cost.parameters for cost in costs(model))


def total_macs(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> int:
    """Multiply-accumulates of the whole graph for one sample."""
    return sum(cost.macs for cost in costs(model, sizes))


def node_macs(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    """One node's multiply-accumulates, 0 where it has none or a shape is unknown. Biases and activations count nothing."""
    count = _COUNTERS.get(node.op_type)
    macs = count(node, known) if count else None
    return macs or 0


def product(sizes: Iterable[int | None] | None) -> int | None:
    """The product, None when anything in it is unknown."""
    if sizes is None:
        return None
    values = list(sizes)
    return None if None in values else math.prod(size for size in values if size is not None)


def _convolution(weight_input: int) -> Callable[[onnx.NodeProto, Mapping[str, Shape]], int | None]:
    """Each output element sums over its group's input channels and the kernel: all axes of the weight but the first."""

    def count(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int | None:
        weight = _input_shape(node, weight_input, known)
        return _times(product(known.get(node.output[0])), product(weight[1:]) if weight else None)

    return count


def _transposed_convolution(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int | None:
    """Each input element is spread over its group's output channels and the kernel. weight: (in, out / groups, ...)."""
    weight = _input_shape(node, 1, known)
    return _times(product(_input_shape(node, 0, known)), product(weight[1:]) if weight else None)


def _matrix_product(right_input: int) -> Callable[[onnx.NodeProto, Mapping[str, Shape]], int | None]:
    """Each output element sums over the axis that the two sides share."""

    def count(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int | None:
        left, right = _input_shape(node, 0, known), _input_shape(node, right_input, known)
        shared = _shared_axis(left, _flag(node, "transA"), last=True)
        if shared is None:
            shared = _shared_axis(right, _flag(node, "transB"), last=False)
        return _times(product(known.get(node.output[0])), shared)

    return count


def _packed_matrix_product(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int | None:
    """MatMulNBits: the weight is packed, so that the shared size stands in the attribute K."""
    shared = next((attribute.i for attribute in node.attribute if attribute.name == "K"), None)
    return _times(product(known.get(node.output[0])), shared)


def _recurrent(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int | None:
    """Each step multiplies the input and the state with every weight once. X: (steps, batch, in)."""
    steps = _input_shape(node, 0, known)
    per_step = [product(_input_shape(node, position, known)) for position in (1, 2)]
    if steps is None or None in per_step:
        return None
    return _times(product(steps[:2]), sum(size for size in per_step if size is not None))


def _einsum(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int | None:
    """The product over all labels, for two operands without an ellipsis."""
    equation = next((attribute.s.decode() for attribute in node.attribute if attribute.name == "equation"), "")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) != 2 or "." in equation:
        return None
    labels: dict[str, int | None] = {}
    for position, term in enumerate(terms):
        shape = _input_shape(node, position, known)
        if shape is None or len(shape) != len(term):
            return None
        labels.update(zip(term, shape, strict=True))
    return product(labels.values())


_COUNTERS: Mapping[str, Callable[[onnx.NodeProto, Mapping[str, Shape]], int | None]] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "NhwcFusedConv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed_convolution,
    "Gemm": _matrix_product(1),
    "FusedGemm": _matrix_product(1),
    "QGemm": _matrix_product(3),
    "MatMul": _matrix_product(1),
    "FusedMatMul": _matrix_product(1),
    "FusedMatMulActivation": _matrix_product(1),
    "MatMulInteger": _matrix_product(1),
    "MatMulIntegerToFloat": _matrix_product(1),
    "DynamicQuantizeMatMul": _matrix_product(1),
    "QLinearMatMul": _matrix_product(3),
    "MatMulNBits": _packed_matrix_product,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "Einsum": _einsum,
}


def _input_shape(node: onnx.NodeProto, position: int, known: Mapping[str, Shape]) -> Shape | None:
    return known.get(node.input[position]) if len(node.input) > position else None


def _shared_axis(shape: Shape | None, transposed: bool, *, last: bool) -> int | None:
    """The summed axis of one side: the left side's last or the right side's second last, the other one when transposed."""
    if not shape:
        return None
    return shape[-1] if len(shape) == 1 or last is not transposed else shape[-2]


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)


def _times(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left * right
