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
from compressctl.graph.index import attribute, index, store_what_is_read
from compressctl.graph.matmul_nbits import stored
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
    graph = emitted.graph
    found = index(graph)
    made: dict[str, onnx.TensorProto] = {}
    quantized: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        values = found.array(node.input[1]) if node.name in plan.dynamic - set(plan.float_nodes) else None
        if values is None or not _fits(node, plan.weights.get(node.input[1])):
            nodes.append(node)
            continue
        source = node.input[0]
        if source not in quantized:
            quantized.add(source)
            parts = [f"{source}_{part}" for part in ("quantized", "scale", "zero_point")]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [source], parts, f"{source}_quantize"))
        quant = plan.weights[node.input[1]]
        if node.op_type == "Conv":
            nodes += _multiplied(node, "ConvInteger", node.input[1], values, quant, made)
            continue
        transposed = bool(node.op_type == "Gemm" and attribute(node, "transB", 0))
        name = f"{node.input[1]}_turned" if transposed else node.input[1]
        turned_values = values.T if transposed else values
        nodes += _multiplied(node, "MatMulInteger", name, turned_values, turned(quant, transposed), made)
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [tensor for tensor in graph.initializer if tensor.name not in made]
    store_what_is_read(graph, [*kept, *made.values()])


def _fits(node: onnx.NodeProto, quant: TensorQuant | None) -> bool:
    """Whether the plan has 8-bit codes for the node's weight with scales along the outputs that the node reads from it."""
    by_row = node.op_type == "Conv" or (node.op_type == "Gemm" and bool(attribute(node, "transB", 0)))
    return quant is not None and fits_kernel(0 if by_row else 1, quant)


def _multiplied(
    node: onnx.NodeProto,
    op: str,
    name: str,
    values: np.ndarray,
    quant: TensorQuant,
    made: dict[str, onnx.TensorProto],
) -> list[onnx.NodeProto]:
    """values: (K, N) of a matrix product, as stored of a convolution. Zero points that are 0 are left out."""
    source, output = node.input[0], node.output[0]
    codes, scale = f"{name}_codes", f"{name}_scale"
    made[codes] = stored(codes, weight_codes(values, quant))
    made[scale] = stored(scale, _beside_channels(np.asarray(quant.scale, np.float32), op, values.ndim))
    inputs = [f"{source}_quantized", codes, f"{source}_zero_point"]
    if np.any(quant.zero_point):
        inputs.append(f"{name}_zero_point")
        made[inputs[-1]] = stored(inputs[-1], np.asarray(quant.zero_point, quant.dtype))
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    result = output if bias is None else f"{output}_without_bias"
    sums, floats, scales = f"{output}_sums", f"{output}_sums_float", f"{output}_scales"
    multiplied = helper.make_node(op, inputs, [sums], node.name)
    if op == "ConvInteger":
        multiplied.attribute.extend(node.attribute)
    nodes = [
        multiplied,
        helper.make_node("Cast", [sums], [floats], f"{node.name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{source}_scale", scale], [scales], f"{node.name}_scales"),
        helper.make_node("Mul", [floats, scales], [result], f"{node.name}_rescale"),
    ]
    if bias is not None:
        if op == "ConvInteger":
            shape = f"{node.name}_bias_shape"
            made[shape] = stored(shape, np.asarray([-1, *[1] * (values.ndim - 2)], np.int64))
            nodes.append(helper.make_node("Reshape", [bias, shape], [f"{node.name}_bias"], f"{node.name}_bias_reshape"))
            bias = f"{node.name}_bias"
        nodes.append(helper.make_node("Add", [result, bias], [output], f"{node.name}_add_bias"))
    return nodes


def _beside_channels(scale: np.ndarray, op: str, rank: int) -> np.ndarray:
    """Scales of a convolution's channels, which come before its positions: (channels, 1, ...)."""
    return scale.reshape(-1, *[1] * (rank - 2)) if op == "ConvInteger" and scale.ndim else scale
