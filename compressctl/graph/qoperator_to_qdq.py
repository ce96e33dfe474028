"""Graphs in ONNX Runtime's operator format (QLinearConv and its like) as Q/DQ around float operators, which say the same.

Source: ONNX operators QLinearConv-10 and QLinearMatMul-10; ONNX Runtime's contrib operators QGemm, QLinearAdd and others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import all_nodes, attribute
from compressctl.graph.tensors import copy_of

Triple = tuple[str, str, str]
"""Codes, scale and zero point."""


def unfold_qlinear(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without such operators, as far as they are known; the same object where there is none."""
    if not any(is_qlinear(node) for node in all_nodes(model.graph)):
        return model
    made = copy_of(model)
    editor = GraphEditor(made.graph)
    editor.replace_nodes(lambda node: _unfolded(node, editor) if is_qlinear(node) else None)
    del made.graph.value_info[:]
    return made


def is_qlinear(node: onnx.NodeProto) -> bool:
    """Whether it is such an operator, in the layout that its float operator has."""
    return node.op_type in _READERS and not attribute(node, "channels_last", 0)


def _unfolded(node: onnx.NodeProto, editor: GraphEditor) -> list[onnx.NodeProto] | None:
    op, operands, result, bias = _READERS[node.op_type](list(node.input))
    make, name, nodes, inputs = helper.make_node, editor.name, [], []
    for position, (codes, scale, point) in enumerate(operands):
        inputs.append(name(node.name, f"operand{position}"))
        dequantize = make("DequantizeLinear", [codes, scale, point], [inputs[-1]], name(inputs[-1], "DQ"))
        if position == 1 and op in _WEIGHT_AXES:
            dequantize.attribute.append(helper.make_attribute("axis", _weight_axis(op, node)))
        nodes.append(dequantize)
    if bias:
        # int32 at the scale of the products.
        scales = [editor.array(scale) for _, scale, _ in operands]
        if scales[0] is None or scales[1] is None:
            return None
        scale = editor.constant(np.asarray(scales[0] * scales[1], np.float32), node.name, "bias_scale")
        inputs.append(name(node.name, "bias"))
        nodes.append(make("DequantizeLinear", [bias, scale], inputs[-1:], name(inputs[-1], "DQ"), axis=0))
    raw = node.output[0] if result is None else name(node.name, "float")
    written = make(op, inputs, [raw], node.name)
    written.attribute.extend(entry for entry in node.attribute if entry.name not in ("channels_last",))
    nodes.append(written)
    if result is not None:
        nodes.append(make("QuantizeLinear", [raw, *result], [node.output[0]], name(node.name, "Q")))
    return nodes


_WEIGHT_AXES = {"Conv": 0, "MatMul": 1, "Gemm": 1}


def _weight_axis(op: str, node: onnx.NodeProto) -> int:
    turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if turned else _WEIGHT_AXES[op]


Parts = tuple[str, list[Triple], tuple[str, str] | None, str]
"""The float operator, its operands, scale and zero point of the result (None: it is float), an int32 bias or ''."""


def _triples(names: list[str], count: int) -> list[Triple]:
    return [(names[3 * n], names[3 * n + 1], names[3 * n + 2]) for n in range(count)]


def _product(op: str) -> Callable[[list[str]], Parts]:
    return lambda names: (op, _triples(names, 2), (names[6], names[7]), names[8] if len(names) > 8 else "")


def _gemm(names: list[str]) -> Parts:
    """QGemm: bias before the result's scale, which is left out for a float result."""
    result = (names[7], names[8]) if len(names) > 8 and names[7] else None
    return "Gemm", _triples(names, 2), result, names[6] if len(names) > 6 else ""


def _pair(op: str) -> Callable[[list[str]], Parts]:
    return lambda names: (op, _triples(names, 2), (names[6], names[7]), "")


def _single(op: str) -> Callable[[list[str]], Parts]:
    return lambda names: (op, _triples(names, 1), (names[3], names[4]), "")


def _concat(names: list[str]) -> Parts:
    return "Concat", _triples(names[2:], (len(names) - 2) // 3), (names[0], names[1]), ""


_READERS: dict[str, Callable[[list[str]], Parts]] = {
    "QLinearConv": _product("Conv"),
    "QLinearMatMul": _pair("MatMul"),
    "QGemm": _gemm,
    "QLinearAdd": _pair("Add"),
    "QLinearMul": _pair("Mul"),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _single("GlobalAveragePool"),
    "QLinearAveragePool": _single("AveragePool"),
    "QLinearSigmoid": _single("Sigmoid"),
    "QLinearLeakyRelu": _single("LeakyRelu"),
}
