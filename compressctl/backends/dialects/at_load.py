"""Layers whose weight alone is quantized and that no runtime here computes with such a weight: convolutions, recurrent layers, products
of stacked matrices, lookups of matrices. The file holds the codes, and the runtime makes floats of them once, when it loads: a small file, and the speed
and memory of float weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import Form, dequantized, missing_of_block
from compressctl.backends.releases import reads_blocks
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import weight_codes
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import copied
from compressctl.graph.matmul_nbits import bits_of
from compressctl.graph.sites import fits_kernel
from compressctl.graph.weight_nodes import RECURRENT, weight_positions
from compressctl.numerics.affine import along
from compressctl.numerics.bitpack import join_bits


def write_at_load(
    emitted: onnx.ModelProto, plan: QuantPlan | None, target: Target, chosen: Mapping[str, Form] | None = None
) -> None:
    """Change in place every such layer with a quantized weight and a float input, and products for which that form is chosen.

    ONNX Runtime keeps a DequantizeLinear and runs it at each inference, in front of a convolution that then cannot arrange its
    weight beforehand; plain arithmetic on constants it folds.
    """
    if plan is None or not plan.weights:
        return
    editor = GraphEditor(emitted.graph)

    def at_load(name: str, quant: TensorQuant, *, is_recurrent: bool) -> tuple[list[onnx.NodeProto], str]:
        values = editor.array(name)
        if values is None:
            return [], name
        if name in editor.visible:
            return [], editor.visible[name][0]
        output = editor.new_name(f"{name}_at_load")
        editor.visible[name] = (output,)
        is_filled = quant.axis is None or not missing_of_block(quant, values.shape[quant.axis], target)
        # No runtime is known to read a convolution's kernel in blocks from a DequantizeLinear.
        in_blocks = quant.block is not None and values.ndim > 2 and not is_recurrent
        with_arithmetic = target.backend == "onnxruntime" or bits_of(quant) == 2 or not is_filled or in_blocks
        write = _with_arithmetic if with_arithmetic else _with_dequantizing
        return write(name, weight_codes(values, quant), quant, output, editor, target), output

    def written(node: onnx.NodeProto) -> Replacement:
        is_chosen = (chosen or {}).get(node.name) is Form.AT_LOAD
        if plan.is_float(node.name) or not (is_chosen or _is_for_load(node, plan, editor)):
            return None
        made, nodes = copied(node), []
        for position in weight_positions(node):
            quant = plan.weights.get(node.input[position])
            if quant is not None:
                is_wide = target.backend == "openvino" and node.op_type in (*RECURRENT, "MatMul")
                quant = _in_four_bits(quant) if is_wide else quant
                is_recurrent = node.op_type in RECURRENT
                before, made.input[position] = at_load(node.input[position], quant, is_recurrent=is_recurrent)
                nodes += before
        return [*nodes, made]

    editor.replace_nodes(written)


def _is_for_load(node: onnx.NodeProto, plan: QuantPlan, editor: GraphEditor) -> bool:
    """Products of two axes have kernels for such weights, and convolutions where their input is quantized too."""
    quants = [plan.weights[name] for name in node.input if name in plan.weights]
    if not quants:
        return False
    if node.op_type in ("MatMul", "Gather"):
        values = editor.array(node.input[weight_positions(node)[0]])
        return values is not None and values.ndim > 2
    if node.op_type == "Conv":
        is_read_as_integers = node.input[0] in plan.activations and node.name not in plan.weights_alone
        return not (is_read_as_integers and fits_kernel(0, quants[0]))
    return node.op_type in ("ConvTranspose", *RECURRENT)


def _in_four_bits(quant: TensorQuant) -> TensorQuant:
    """OpenVINO's recurrent layers want constants, which it does not make of the operators that take 2-bit codes apart; its products of
    stacked matrices compute something else with these operators (2026.4, processors)."""
    if bits_of(quant) != 2:
        return quant
    return replace(quant, dtype=quant.dtype.replace("2", "4"), quantized_min=None, quantized_max=None)


def _with_dequantizing(
    name: str, codes: np.ndarray, quant: TensorQuant, output: str, editor: GraphEditor, target: Target
) -> list[onnx.NodeProto]:
    return [dequantized((name,), codes, quant, output, editor)]


def _with_arithmetic(
    name: str, codes: np.ndarray, quant: TensorQuant, output: str, editor: GraphEditor, target: Target
) -> list[onnx.NodeProto]:
    """(codes - zero point) * scale in ONNX operators, all of constants."""
    shape = codes.shape
    nodes: list[onnx.NodeProto] = []
    codes, scale, zero_point = _by_block(codes, quant)
    bits, lowest = bits_of(quant), 0
    if bits == 2 or (bits == 4 and not reads_blocks(target)):
        lowest = 0 if quant.dtype.startswith("u") else 1 << (bits - 1)
        nodes, last = _few_bits(name, codes.astype(np.int8).reshape(-1) + lowest, codes.shape, bits, editor)
    else:
        last = editor.constant(codes, name, "codes")

    def then(operator: str, *more: str, **attributes: Any) -> None:
        nonlocal last
        made = editor.new_name(f"{output}_{operator.lower()}")
        nodes.append(helper.make_node(operator, [last, *more], [made], f"{made}_node", **attributes))
        last = made

    then("Cast", to=onnx.TensorProto.FLOAT)
    point = zero_point.astype(np.int16) + lowest
    if np.any(point):
        codes_as_floats = last
        last = editor.constant(point.astype(np.uint8 if quant.dtype.startswith("u") else np.int8), name, "zero_point")
        then("Cast", to=onnx.TensorProto.FLOAT)
        last, zero = codes_as_floats, last
        then("Sub", zero)
    then("Mul", editor.constant(scale, name, "scale"))
    if quant.block is not None and quant.axis is not None:
        filled = [*shape]
        filled[quant.axis] = codes.shape[quant.axis] * quant.block
        then("Reshape", editor.constant(np.array(filled, np.int64), name, "filled"))
        if shape[quant.axis] % quant.block:
            ends = {"first": 0, "end": shape[quant.axis], "axis": quant.axis}
            then("Slice", *(editor.constant(np.array([end], np.int64), name, role) for role, end in ends.items()))
    nodes[-1].output[0] = output
    return nodes


def _by_block(codes: np.ndarray, quant: TensorQuant) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes with an axis inside each block, the last one filled up, and scale and zero point that broadcast against them."""
    scale, zero_point = np.asarray(quant.scale, np.float32), np.asarray(quant.zero_point)
    if quant.block is None or quant.axis is None:
        return codes, along(scale, quant.axis, codes.ndim), along(zero_point, quant.axis, codes.ndim)
    axis, blocks = quant.axis, scale.shape[quant.axis]
    missing = blocks * quant.block - codes.shape[axis]
    rest = np.zeros([missing if place == axis else size for place, size in enumerate(codes.shape)], codes.dtype)
    filled = np.concatenate([codes, rest], axis)
    split = (*filled.shape[:axis], blocks, quant.block, *filled.shape[axis + 1 :])
    return filled.reshape(split), np.expand_dims(scale, axis + 1), np.expand_dims(zero_point, axis + 1)


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
