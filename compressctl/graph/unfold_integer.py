"""Products of integers (MatMulInteger, ConvInteger) and DynamicQuantizeLSTM as float layers of dequantized weights, which say the same.

Source: ONNX operators DynamicQuantizeLinear-11, MatMulInteger-10, ConvInteger-10; the pattern is what ONNX Runtime's
quantize_dynamic writes: product of codes, Cast, Mul by the product of both scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, all_nodes, copied, places
from compressctl.graph.opset import opset_of
from compressctl.graph.tensors import copy_of

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
    """A copy of a canonical graph without such products, as far as they are read; the same object where there is none.

    Their inputs lose the rounding, which the plan then says in `dynamic`.
    """
    around = list(places(model.graph))
    products = [(node, found) for place, found in around for node in place.node if is_integer_product(node)]
    recurrent = {node.name: node for node in all_nodes(model.graph) if node.op_type == "DynamicQuantizeLSTM"}
    if not products and not recurrent:
        return Unfolded(model)
    made = copy_of(model)
    read = [(node, found, _read(node, found)) for node, found in products]
    ignored = [
        f"{node.name}: its weight is computed, or no Cast and Mul by constant scales stand behind it"
        for node, found, part in read
        if part is None and not _reads_fixed_codes(node, found)
    ]
    parts = {part.rescale: part for _, _, part in read if part is not None}
    editor = GraphEditor(made.graph)
    opset, layers = opset_of(model), set()

    def unfolded(node: onnx.NodeProto) -> Replacement:
        if node.name in recurrent:
            nodes = _lstm(node, editor, opset)
            layers.update([node.name] if nodes is not None else [])
            return nodes
        return _product(parts[node.output[0]], editor) if node.output and node.output[0] in parts else None

    editor.replace_nodes(unfolded)
    editor.drop_unread()
    del made.graph.value_info[:]
    ignored += [
        f"{name}: its weights are computed, or their scales differ by row and opset {opset} cannot say that"
        for name in recurrent.keys() - layers
    ]
    return Unfolded(made, frozenset((*(part.node.name for part in parts.values()), *layers)), tuple(ignored))


_OLDEST_BLOCKED_OPSET = 21
"""DequantizeLinear knows blocks from here on: a scale for each row of each direction."""


def _lstm(node: onnx.NodeProto, editor: GraphEditor, opset: int) -> list[onnx.NodeProto] | None:
    """W: (directions, inputs, rows) codes, its scales (directions, rows) or (directions,)."""
    arrays = [editor.array(node.input[position]) for position in (1, 2, 8, 9, 10, 11)]
    if any(array is None for array in arrays):
        return None
    made, nodes = copied(node), []
    for position, parts in ((1, (0, 2, 3)), (2, (1, 4, 5))):
        codes, scale, point = (array for part in parts if (array := arrays[part]) is not None)
        directions, name = len(codes), node.input[position]
        attributes: dict[str, Any] = {}
        if scale.size == 1:
            scale, point = scale.reshape(()), point.reshape(())
        elif directions == 1:
            scale, point, attributes = scale.reshape(-1), point.reshape(-1), {"axis": 1}
        elif opset >= _OLDEST_BLOCKED_OPSET:
            rows = (directions, codes.shape[2], 1)
            scale, point = (np.broadcast_to(part.reshape(directions, -1, 1), rows) for part in (scale, point))
            attributes = {"axis": 2, "block_size": codes.shape[1]}
        else:
            return None
        turned = {"codes": codes.transpose(0, 2, 1), "scale": scale.astype(np.float32), "zero_point": point}
        inputs = [editor.constant(np.ascontiguousarray(part), name, "turned", role) for role, part in turned.items()]
        made.input[position] = editor.name(name, "dequantized")
        made_by = editor.name(name, "dequantized", "DQ")
        nodes.append(helper.make_node("DequantizeLinear", inputs, [made.input[position]], made_by, **attributes))
    made.op_type, made.domain = "LSTM", ""
    del made.input[8:]
    return [*nodes, made]


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


def _product(part: _Part, editor: GraphEditor) -> list[onnx.NodeProto]:
    """The float product and what dequantizes its weight, and its input where that exists as codes alone."""
    node, nodes, make = part.node, [], helper.make_node
    source = part.source
    if source is None:
        if node.input[0] not in editor.visible:
            source = editor.new_name(f"{node.input[0]}_dequantized")
            points = [node.input[2]] if len(node.input) > 2 and node.input[2] else []
            inputs = [node.input[0], part.input_scale, *points]
            nodes.append(make("DequantizeLinear", inputs, [source], editor.new_name(f"{source}_DQ")))
            editor.visible[node.input[0]] = (source,)
        (source,) = editor.visible[node.input[0]]
    scale = _flat(part.scale).astype(np.float32)
    inputs = [part.weight, editor.constant(scale, node.name, "weight_scale")]
    if part.zero_point is not None:
        zeros = np.broadcast_to(_flat(part.zero_point), scale.shape)
        inputs.append(editor.constant(np.ascontiguousarray(zeros), node.name, "weight_zero_point"))
    weight = editor.name(node.name, "weight")
    dequantize = make("DequantizeLinear", inputs, [weight], editor.name(weight, "DQ"))
    if scale.ndim:
        dequantize.attribute.append(helper.make_attribute("axis", 0 if node.op_type == "ConvInteger" else 1))
    written = make(_FLOAT_OF[node.op_type], [source, weight], [part.rescale], node.name)
    written.attribute.extend(node.attribute)
    return [*nodes, dequantize, written]


def _flat(values: np.ndarray) -> np.ndarray:
    """One number per channel, or () for one for all."""
    return values.reshape(-1) if values.size > 1 else values.reshape(())
