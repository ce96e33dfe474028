"""Convolutions whose weight alone is quantized. No runtime here multiplies with such a weight, so the file holds the codes and the
runtime makes floats of them once, when it loads: a small file, and the speed and memory of float weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import dequantized, missing_of_block
from compressctl.backends.releases import reads_blocks
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import spread, weight_codes
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import copied
from compressctl.graph.matmul_nbits import bits_of
from compressctl.graph.sites import fits_kernel
from compressctl.numerics.bitpack import join_bits


def write_at_load(emitted: onnx.ModelProto, plan: QuantPlan | None, target: Target) -> None:
    """Change in place every convolution with a quantized weight and a float input.

    ONNX Runtime keeps a DequantizeLinear and runs it at each inference, in front of a convolution that then cannot arrange its
    weight beforehand; plain arithmetic on constants it folds.
    """
    if plan is None or not plan.weights:
        return
    editor = GraphEditor(emitted.graph)

    def written(node: onnx.NodeProto) -> Replacement:
        quant = plan.weights.get(node.input[1]) if node.op_type == "Conv" else None
        values = editor.array(node.input[1]) if quant is not None and node.name not in plan.float_nodes else None
        if quant is None or values is None or (node.input[0] in plan.activations and fits_kernel(0, quant)):
            return None
        weight, nodes = node.input[1], []
        if weight not in editor.visible:
            output = editor.new_name(f"{weight}_at_load")
            is_filled = quant.axis is None or not missing_of_block(quant, values.shape[quant.axis], target)
            with_arithmetic = target.backend == "onnxruntime" or bits_of(quant) == 2 or not is_filled
            write = _with_arithmetic if with_arithmetic else _with_dequantizing
            nodes = write(weight, weight_codes(values, quant), quant, output, editor, target)
            editor.visible[weight] = (output,)
        made = copied(node)
        made.input[1] = editor.visible[weight][0]
        return [*nodes, made]

    editor.replace_nodes(written)


def _with_dequantizing(
    name: str, codes: np.ndarray, quant: TensorQuant, output: str, editor: GraphEditor, target: Target
) -> list[onnx.NodeProto]:
    return [dequantized((name,), codes, quant, output, editor)]


def _with_arithmetic(
    name: str, codes: np.ndarray, quant: TensorQuant, output: str, editor: GraphEditor, target: Target
) -> list[onnx.NodeProto]:
    """(codes - zero point) * scale in ONNX operators, all of constants."""
    nodes: list[onnx.NodeProto] = []
    bits, lowest = bits_of(quant), 0
    if bits == 2 or (bits == 4 and not reads_blocks(target)):
        lowest = 0 if quant.dtype.startswith("u") else 1 << (bits - 1)
        nodes, stored = _few_bits(name, codes.astype(np.int8).reshape(-1) + lowest, codes.shape, bits, editor)
    else:
        stored = editor.constant(codes, name, "codes")
    numbers = editor.new_name(f"{output}_numbers")
    nodes.append(helper.make_node("Cast", [stored], [numbers], f"{numbers}_cast", to=onnx.TensorProto.FLOAT))
    point = np.asarray(spread(quant.zero_point, quant, codes.shape), np.float32) + lowest
    if np.any(point):
        shifted, steps = editor.constant(point, name, "float_zero_point"), editor.new_name(f"{output}_steps")
        nodes.append(helper.make_node("Sub", [numbers, shifted], [steps], f"{steps}_sub"))
        numbers = steps
    scale = np.asarray(spread(quant.scale, quant, codes.shape), np.float32)
    by = editor.constant(scale, name, "spread_scale")
    return [*nodes, helper.make_node("Mul", [numbers, by], [output], f"{output}_mul")]


def _few_bits(
    name: str, codes: np.ndarray, shape: tuple[int, ...], bits: int, editor: GraphEditor
) -> tuple[list[onnx.NodeProto], str]:
    """Several codes to a byte, the low bits first, and the nodes that take them apart again: (nodes, tensor of uint8 codes).

    codes: one axis, from 0 on.
    """
    parts = {
        "packed": join_bits(codes, bits).reshape(-1, 1),
        "shifts": np.arange(0, 8, bits, dtype=np.uint8)[None],
        "lowest": np.array((1 << bits) - 1, np.uint8),
        "all": np.array([-1], np.int64),
        "from": np.array([0], np.int64),
        "to": np.array([codes.size], np.int64),
        "shape": np.array(shape, np.int64),
    }
    packed, shifts, mask, every, first, last, sizes = (editor.constant(part, name, key) for key, part in parts.items())
    steps = ("shifted", "each", "flat", "cut", "codes")
    shifted, each, flat_name, cut, done = (editor.new_name(f"{name}_{step}_at_load") for step in steps)
    return [
        helper.make_node("BitShift", [packed, shifts], [shifted], shifted, direction="RIGHT"),
        helper.make_node("BitwiseAnd", [shifted, mask], [each], each),
        helper.make_node("Reshape", [each, every], [flat_name], flat_name),
        helper.make_node("Slice", [flat_name, first, last], [cut], cut),
        helper.make_node("Reshape", [cut, sizes], [done], done),
    ], done
