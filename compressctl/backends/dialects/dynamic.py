"""Products whose input is quantized while the model runs: the pattern that ONNX Runtime fuses into one integer kernel.

Source: ONNX Runtime, dynamic_quantize_matmul_fusion.cc and matmul_integer_to_float.cc: DynamicQuantizeLinear, MatMulInteger (or
ConvInteger, which stays as it is) with a constant weight, Cast, Mul by the product of both scales, and perhaps an Add of a bias.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.backends.dialects.weight_only import turned
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


def write_dynamic(emitted: onnx.ModelProto, plan: QuantPlan | None) -> None:
    """Change the plan's dynamic products in place. Products that read one tensor share its quantization."""
    assert plan is not None
    editor = GraphEditor(emitted.graph)

    def written(node: onnx.NodeProto) -> Replacement:
        values = editor.array(node.input[1]) if node.name in plan.dynamic - set(plan.float_nodes) else None
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
