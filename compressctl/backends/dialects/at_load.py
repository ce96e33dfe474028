"""Convolutions whose weight alone is quantized. No runtime here multiplies with such a weight, so the file holds the codes and the
runtime makes floats of them once, when it loads: a small file, and the speed and memory of float weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import dequantized
from compressctl.backends.releases import reads_blocks
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import spread, weight_codes
from compressctl.graph.index import index, store_what_is_read
from compressctl.graph.matmul_nbits import bits_of, stored
from compressctl.graph.sites import fits_kernel
from compressctl.numerics.bitpack import join_bits


def write_at_load(emitted: onnx.ModelProto, plan: QuantPlan | None, target: Target) -> None:
    """Change in place every convolution with a quantized weight and a float input.

    ONNX Runtime keeps a DequantizeLinear and runs it at each inference, in front of a convolution that then cannot arrange its
    weight beforehand; plain arithmetic on constants it folds.
    """
    if plan is None or not plan.weights:
        return
    graph = emitted.graph
    found = index(graph)
    made: dict[str, onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    written: dict[str, str] = {}
    for node in graph.node:
        quant = plan.weights.get(node.input[1]) if node.op_type == "Conv" else None
        values = found.array(node.input[1]) if quant is not None and node.name not in plan.float_nodes else None
        if quant is None or values is None or (node.input[0] in plan.activations and fits_kernel(0, quant)):
            nodes.append(node)
            continue
        weight = node.input[1]
        if weight not in written:
            written[weight] = f"{weight}_at_load"
            write = _with_arithmetic if target.backend == "onnxruntime" or bits_of(quant) == 2 else _with_dequantizing
            nodes += write(weight, values, quant, written[weight], made, target)
        node.input[1] = written[weight]
        nodes.append(node)
    if not written:
        return
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [tensor for tensor in graph.initializer if tensor.name not in made]
    store_what_is_read(graph, [*kept, *made.values()])


def _with_dequantizing(
    name: str, values: np.ndarray, quant: TensorQuant, output: str, made: dict[str, onnx.TensorProto], target: Target
) -> list[onnx.NodeProto]:
    return [dequantized(name, values, quant, output, made)]


def _with_arithmetic(
    name: str, values: np.ndarray, quant: TensorQuant, output: str, made: dict[str, onnx.TensorProto], target: Target
) -> list[onnx.NodeProto]:
    """(codes - zero point) * scale in ONNX operators, all of constants."""
    codes = weight_codes(values, quant)
    nodes: list[onnx.NodeProto] = []
    bits, numbers, lowest = bits_of(quant), f"{name}_codes", 0
    if bits == 2 or (bits == 4 and not reads_blocks(target)):
        lowest = 0 if quant.dtype.startswith("u") else 1 << (bits - 1)
        nodes, numbers = _few_bits(name, codes.astype(np.int8).reshape(-1) + lowest, codes.shape, bits, made)
    else:
        made[numbers] = stored(numbers, codes)
    nodes.append(
        helper.make_node("Cast", [numbers], [f"{output}_numbers"], f"{output}_cast", to=onnx.TensorProto.FLOAT)
    )
    numbers = f"{output}_numbers"
    point = np.asarray(spread(quant.zero_point, quant, values.shape), np.float32) + lowest
    if np.any(point):
        made[f"{name}_zero_point"] = stored(f"{name}_zero_point", point)
        nodes.append(helper.make_node("Sub", [numbers, f"{name}_zero_point"], [f"{output}_steps"], f"{output}_sub"))
        numbers = f"{output}_steps"
    made[f"{name}_scale"] = stored(f"{name}_scale", np.asarray(spread(quant.scale, quant, values.shape), np.float32))
    nodes.append(helper.make_node("Mul", [numbers, f"{name}_scale"], [output], f"{output}_mul"))
    return nodes


def _few_bits(
    name: str, codes: np.ndarray, shape: tuple[int, ...], bits: int, made: dict[str, onnx.TensorProto]
) -> tuple[list[onnx.NodeProto], str]:
    """Several codes to a byte, the low bits first, and the nodes that take them apart again: (nodes, tensor of uint8 codes).

    codes: one axis, from 0 on.
    """
    parts = {
        f"{name}_packed": join_bits(codes, bits).reshape(-1, 1),
        f"{name}_shifts": np.arange(0, 8, bits, dtype=np.uint8)[None],
        f"{name}_lowest": np.array((1 << bits) - 1, np.uint8),
        f"{name}_all": np.array([-1], np.int64),
        f"{name}_from": np.array([0], np.int64),
        f"{name}_to": np.array([codes.size], np.int64),
        f"{name}_shape": np.array(shape, np.int64),
    }
    made.update({part: stored(part, value) for part, value in parts.items()})
    steps = ("shifted", "each", "flat", "cut", "codes")
    shifted, each, flat_name, cut, done = (f"{name}_{step}_at_load" for step in steps)
    return [
        helper.make_node("BitShift", [f"{name}_packed", f"{name}_shifts"], [shifted], shifted, direction="RIGHT"),
        helper.make_node("BitwiseAnd", [shifted, f"{name}_lowest"], [each], each),
        helper.make_node("Reshape", [each, f"{name}_all"], [flat_name], flat_name),
        helper.make_node("Slice", [flat_name, f"{name}_from", f"{name}_to"], [cut], cut),
        helper.make_node("Reshape", [cut, f"{name}_shape"], [done], done),
    ], done
