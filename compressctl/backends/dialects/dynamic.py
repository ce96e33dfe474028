"""Products and LSTM layers whose input is quantized while the model runs: what ONNX Runtime has an integer kernel for.

Source: ONNX Runtime, dynamic_quantize_matmul_fusion.cc and matmul_integer_to_float.cc: DynamicQuantizeLinear, MatMulInteger (or
ConvInteger, which stays as it is) with a constant weight, Cast, Mul by the product of both scales, and perhaps an Add of a bias.
Contrib operator DynamicQuantizeLSTM-1: an LSTM with W (directions, inputs, 4 * hidden) and R (directions, hidden, 4 * hidden) in codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.backends.dialects.weight_only import MICROSOFT, Form, Statements, import_microsoft, turned
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import weight_codes
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import attribute
from compressctl.graph.sites import fits_kernel


def without_dynamic(plan: QuantPlan | None, target: Target) -> QuantPlan | None:
    """The plan as the writers of fixed quantization shall see it: the same object when nothing is dynamic for them.

    OpenVINO quantizes the inputs of products with 8-bit weights on its own, so there the weights are all that is written;
    TensorRT has no such products.
    """
    if plan is None or not plan.dynamic or target.backend != "onnxruntime":
        return plan
    left = dict.fromkeys(plan.dynamic, "its input is quantized while the model runs")
    return replace(plan, float_nodes={**plan.float_nodes, **left})


def write_dynamic(emitted: onnx.ModelProto, plan: QuantPlan | None, chosen: Mapping[str, Form]) -> None:
    """Change the plan's dynamic nodes in place, but those of the form AT_LOAD. Products that read one tensor share its quantization."""
    assert plan is not None
    known = Statements(emitted)
    editor = GraphEditor(emitted.graph)

    def written(node: onnx.NodeProto) -> Replacement:
        if chosen.get(node.name) is Form.AT_LOAD or node.name not in plan.dynamic - set(plan.float_nodes):
            return None
        if node.op_type == "LSTM":
            made = _lstm(node, plan, editor)
            for output in node.output if made is not None else ():
                known.state(output, [output])
            return made
        values = editor.array(node.input[1])
        if values is None or not _fits(node, plan.weights.get(node.input[1])):
            return None
        quant = plan.weights[node.input[1]]
        nodes = _quantized(node.input[0], editor)
        if node.op_type == "Conv":
            return [*nodes, *_multiplied(node, "ConvInteger", (node.input[1],), values, quant, editor)]
        transposed = bool(node.op_type == "Gemm" and attribute(node, "transB", 0))
        name = (node.input[1], "turned") if transposed else (node.input[1],)
        turned_values = values.T if transposed else values
        return [*nodes, *_multiplied(node, "MatMulInteger", name, turned_values, turned(quant, transposed), editor)]

    editor.replace_nodes(written)
    import_microsoft(emitted)


def lstm_scales(node: onnx.NodeProto, plan: QuantPlan, dims: Mapping[str, Sequence[int]]) -> list[Scales] | None:
    """Scales and zero points of W and R as DynamicQuantizeLSTM takes them, (directions, rows) or (directions,); None where it
    does not take the node: other codes than of 8 bits with one scale for a row or a direction, or the batch as the first axis.

    dims: shapes by constant.
    """
    quants = [plan.weights.get(name) for name in node.input[1:3]]
    if node.op_type != "LSTM" or attribute(node, "layout", 0):
        return None
    found = [
        None if quant is None else _row_scales(quant, dims[name])
        for name, quant in zip(node.input[1:3], quants, strict=True)
    ]
    return None if None in found else [scales for scales in found if scales is not None]


Scales = tuple[np.ndarray, np.ndarray]


def _row_scales(quant: TensorQuant, dims: Sequence[int]) -> Scales | None:
    """dims: (directions, rows, columns)."""
    directions, rows, columns = dims
    parts = np.asarray(quant.scale, np.float32), np.asarray(quant.zero_point).astype(quant.dtype)
    if quant.dtype not in ("int8", "uint8"):
        return None
    if quant.axis is None:
        return np.repeat(parts[0].reshape(1), directions), np.repeat(parts[1].reshape(1), directions)
    is_by_row = quant.block is None and quant.axis % 3 == 1 and directions == 1
    if not is_by_row and (quant.block is None or quant.axis % 3 != 2 or quant.block < columns):
        return None
    return parts[0].reshape(directions, rows), parts[1].reshape(directions, rows)


def _lstm(node: onnx.NodeProto, plan: QuantPlan, editor: GraphEditor) -> list[onnx.NodeProto] | None:
    dims = {name: tuple(editor.stored[name].dims) for name in node.input[1:3] if name in editor.stored}
    scales = lstm_scales(node, plan, dims) if len(dims) == len(set(node.input[1:3])) else None
    if scales is None:
        return None
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    for position, (scale, zero_point) in zip((1, 2), scales, strict=True):
        name = node.input[position]
        values = editor.array(name)
        assert values is not None
        codes = np.ascontiguousarray(weight_codes(values, plan.weights[name]).transpose(0, 2, 1))
        inputs[position] = editor.constant(codes, name, "turned", "codes")
        inputs += [editor.constant(scale, name, "scales"), editor.constant(zero_point, name, "zero_points")]
    made = helper.make_node("DynamicQuantizeLSTM", inputs, node.output, node.name, domain=MICROSOFT)
    made.attribute.extend(entry for entry in node.attribute if entry.name != "layout")
    return [made]


def _quantized(source: str, editor: GraphEditor) -> list[onnx.NodeProto]:
    """What makes a tensor's codes, scale and zero point, which are `editor.visible` then; nothing where they are already."""
    if source in editor.visible:
        return []
    parts = tuple(editor.new_name(f"{source}_{part}") for part in ("quantized", "scale", "zero_point"))
    editor.visible[source] = parts
    return [helper.make_node("DynamicQuantizeLinear", [source], parts, editor.new_name(f"{source}_quantize"))]


def _fits(node: onnx.NodeProto, quant: TensorQuant | None) -> bool:
    """Whether the plan has 8-bit codes for the node's weight with scales along the outputs that the node reads from it."""
    by_row = node.op_type == "Conv" or (node.op_type == "Gemm" and bool(attribute(node, "transB", 0)))
    return quant is not None and fits_kernel(0 if by_row else 1, quant)


def _multiplied(
    node: onnx.NodeProto, op: str, of: tuple[str, ...], values: np.ndarray, quant: TensorQuant, editor: GraphEditor
) -> list[onnx.NodeProto]:
    """values: (K, N) of a matrix product, as stored of a convolution. of: what the names of its constants begin with.

    Zero points that are 0 are left out.
    """
    output = node.output[0]
    codes, input_scale, input_zero_point = editor.visible[node.input[0]]
    scale = _beside_channels(np.asarray(quant.scale, np.float32), op, values.ndim)
    inputs = [codes, editor.constant(weight_codes(values, quant), *of, "codes"), input_zero_point]
    if np.any(quant.zero_point):
        inputs.append(editor.constant(np.asarray(quant.zero_point, quant.dtype), *of, "zero_point"))
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    result = output if bias is None else editor.name(output, "without_bias")
    sums, floats, scales = (editor.name(output, part) for part in ("sums", "sums_float", "scales"))
    multiplied = helper.make_node(op, inputs, [sums], node.name)
    if op == "ConvInteger":
        multiplied.attribute.extend(node.attribute)
    nodes = [
        multiplied,
        helper.make_node("Cast", [sums], [floats], editor.name(node.name, "cast"), to=TensorProto.FLOAT),
        helper.make_node(
            "Mul", [input_scale, editor.constant(scale, *of, "scale")], [scales], editor.name(node.name, "scales")
        ),
        helper.make_node("Mul", [floats, scales], [result], editor.name(node.name, "rescale")),
    ]
    if bias is not None:
        if op == "ConvInteger":
            shape = editor.constant(np.asarray([-1, *[1] * (values.ndim - 2)], np.int64), node.name, "bias_shape")
            flat, bias = bias, editor.name(node.name, "bias")
            nodes.append(helper.make_node("Reshape", [flat, shape], [bias], editor.name(node.name, "bias_reshape")))
        nodes.append(helper.make_node("Add", [result, bias], [output], editor.name(node.name, "add_bias")))
    return nodes


def _beside_channels(scale: np.ndarray, op: str, rank: int) -> np.ndarray:
    """Scales of a convolution's channels, which come before its positions: (channels, 1, ...)."""
    return scale.reshape(-1, *[1] * (rank - 2)) if op == "ConvInteger" and scale.ndim else scale
