"""Graphs in ONNX Runtime's operator format (QLinearConv and its like) as Q/DQ around float operators, which say the same.

Source: ONNX operators QLinearConv-10 and QLinearMatMul-10; ONNX Runtime's contrib operators QGemm, QLinearAdd and others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import all_nodes, attribute
from compressctl.graph.tensors import copy_of


@dataclass(frozen=True)
class _Form:
    """op: the float operator. first, operands: where its operands begin among the inputs, each as codes, scale and zero point, and
    how many there are, None for all that follow. result: where the result's scale and zero point stand; without them it is float.
    bias: where an int32 bias may stand.
    """

    op: str
    operands: int | None = 2
    result: int = 6
    bias: int | None = None
    first: int = 0


_FORMS = {
    "QLinearConv": _Form("Conv", bias=8),
    "QLinearMatMul": _Form("MatMul"),
    "QGemm": _Form("Gemm", result=7, bias=6),
    "QLinearAdd": _Form("Add"),
    "QLinearMul": _Form("Mul"),
    "QLinearConcat": _Form("Concat", None, result=0, first=2),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", 1, result=3),
    "QLinearAveragePool": _Form("AveragePool", 1, result=3),
    "QLinearSigmoid": _Form("Sigmoid", 1, result=3),
    "QLinearLeakyRelu": _Form("LeakyRelu", 1, result=3),
}


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
    return node.op_type in _FORMS and not attribute(node, "channels_last", 0)


def _unfolded(node: onnx.NodeProto, editor: GraphEditor) -> list[onnx.NodeProto] | None:
    form, given = _FORMS[node.op_type], list(node.input)
    op, operands = form.op, [given[at : at + 3] for at in range(form.first, len(given) - 2, 3)][: form.operands]
    result = given[form.result : form.result + 2]
    is_float = not any(result)
    bias = given[form.bias] if form.bias is not None and len(given) > form.bias else ""
    make, name, nodes, inputs = helper.make_node, editor.name, [], []
    for position, operand in enumerate(operands):
        inputs.append(name(node.name, f"operand{position}"))
        dequantize = make("DequantizeLinear", operand, [inputs[-1]], name(inputs[-1], "DQ"))
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
    raw = node.output[0] if is_float else name(node.name, "float")
    written = make(op, inputs, [raw], node.name)
    written.attribute.extend(entry for entry in node.attribute if entry.name not in ("channels_last",))
    nodes.append(written)
    if not is_float:
        nodes.append(make("QuantizeLinear", [raw, *result], [node.output[0]], name(node.name, "Q")))
    return nodes


_WEIGHT_AXES = {"Conv": 0, "MatMul": 1, "Gemm": 1}


def _weight_axis(op: str, node: onnx.NodeProto) -> int:
    turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if turned else _WEIGHT_AXES[op]
