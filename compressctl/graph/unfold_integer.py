"""Products of integers (MatMulInteger, ConvInteger) as float products of dequantized weights, which say the same.

Source: ONNX operators DynamicQuantizeLinear-11, MatMulInteger-10, ConvInteger-10; the pattern is what ONNX Runtime's
quantize_dynamic writes: product of codes, Cast, Mul by the product of both scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.index import GraphIndex, index, reads, store_what_is_read
from compressctl.graph.tensors import copy_of, from_array

_FLOAT_OF = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


@dataclass(frozen=True)
class Unfolded:
    """dynamic: names of the products whose input was quantized while the model ran. ignored: what could not be read."""

    model: onnx.ModelProto
    dynamic: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()


def is_integer_product(node: onnx.NodeProto) -> bool:
    return node.op_type in _FLOAT_OF


def unfold_integer(model: onnx.ModelProto) -> Unfolded:
    """A copy without such products, as far as they are read; the same object where there is none.

    Their inputs lose the rounding, which the plan then says in `dynamic`.
    """
    if not any(is_integer_product(node) for node in model.graph.node):
        return Unfolded(model)
    made = copy_of(model)
    graph, found = made.graph, index(model.graph)
    parts = {node.output[0]: _read(node, found) for node in graph.node if is_integer_product(node)}
    ignored = [
        f"{node.name or node.output[0]}: its weight is computed, or no Cast and Mul by constant scales stand behind it"
        for node in graph.node
        if is_integer_product(node) and parts[node.output[0]] is None and not _reads_fixed_codes(node, found)
    ]
    nodes: list[onnx.NodeProto] = []
    replaced = {part.rescale: part for part in parts.values() if part is not None}
    for node in graph.node:
        if node.output[0] in replaced:
            nodes += _product(replaced[node.output[0]], graph, {name for other in nodes for name in other.output})
        elif parts.get(node.output[0]) is None:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(_needed(nodes, found.outputs))
    store_what_is_read(graph)
    del graph.value_info[:]
    return Unfolded(made, frozenset(part.node.name for part in replaced.values()), tuple(ignored))


def _reads_fixed_codes(node: onnx.NodeProto, found: GraphIndex) -> bool:
    """Whether a QuantizeLinear made its input: `absorb` says what becomes of that."""
    maker = found.producers.get(node.input[0])
    return maker is not None and maker.op_type == "QuantizeLinear"


@dataclass(frozen=True)
class _Part:
    """source: the float tensor whose codes meet the weight; None where only codes exist, with the scale input_scale.

    rescale: the tensor that the last Mul makes.
    """

    node: onnx.NodeProto
    source: str | None
    input_scale: str
    weight: str
    scale: np.ndarray
    zero_point: np.ndarray | None
    rescale: str


def _read(node: onnx.NodeProto, found: GraphIndex) -> _Part | None:
    weight = found.array(node.input[1])
    cast = found.only_consumer(node.output[0])
    rescale = found.only_consumer(cast.output[0]) if cast is not None and cast.op_type == "Cast" else None
    if weight is None or cast is None or rescale is None or rescale.op_type != "Mul" or not node.name:
        return None
    factors = next((found.producers.get(name) for name in rescale.input if name != cast.output[0]), None)
    if factors is None or factors.op_type != "Mul":
        return None
    maker = found.producers.get(node.input[0])
    is_dynamic = maker is not None and maker.op_type == "DynamicQuantizeLinear"
    input_scale = maker.output[1] if is_dynamic and maker is not None else factors.input[0]
    others = [name for name in factors.input if name != input_scale]
    scale = found.array(others[0]) if len(others) == 1 else None
    point = found.array(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if (
        scale is None
        or (point is None and len(node.input) > 3 and node.input[3])
        or (scale.size > 1 and weight.ndim > 2 and node.op_type == "MatMulInteger")
    ):
        return None
    source = maker.input[0] if is_dynamic and maker is not None else None
    return _Part(node, source, input_scale, node.input[1], scale, point, rescale.output[0])


def _product(part: _Part, graph: onnx.GraphProto, known: set[str]) -> list[onnx.NodeProto]:
    """The float product and what dequantizes its weight, and its input where that exists as codes alone."""
    node = part.node
    nodes = []
    source = part.source
    if source is None:
        source = f"{node.input[0]}_dequantized"
        if source not in known:
            points = [node.input[2]] if len(node.input) > 2 and node.input[2] else []
            inputs = [node.input[0], part.input_scale, *points]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [source], f"{source}_DQ"))
    scale = _flat(part.scale).astype(np.float32)
    weight_inputs = [part.weight, _stored(graph, f"{node.name}_weight_scale", scale)]
    if part.zero_point is not None:
        zeros = np.broadcast_to(_flat(part.zero_point), scale.shape)
        weight_inputs.append(_stored(graph, f"{node.name}_weight_zero_point", zeros))
    dequantize = helper.make_node("DequantizeLinear", weight_inputs, [f"{node.name}_weight"], f"{node.name}_weight_DQ")
    if scale.ndim:
        dequantize.attribute.append(helper.make_attribute("axis", 0 if node.op_type == "ConvInteger" else 1))
    written = helper.make_node(_FLOAT_OF[node.op_type], [source, f"{node.name}_weight"], [part.rescale], node.name)
    written.attribute.extend(node.attribute)
    return [*nodes, dequantize, written]


def _flat(values: np.ndarray) -> np.ndarray:
    """One number per channel, or () for one for all."""
    return values.reshape(-1) if values.size > 1 else values.reshape(())


def _stored(graph: onnx.GraphProto, name: str, values: np.ndarray) -> str:
    graph.initializer.append(from_array(np.ascontiguousarray(values).reshape(values.shape), name))
    return name


def _needed(nodes: list[onnx.NodeProto], outputs: frozenset[str]) -> list[onnx.NodeProto]:
    """Without what nothing reads any more: casts, products of scales, quantizations."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(reads(node))
    return kept[::-1]
