"""Embeddings whose table the plan quantizes: what is looked up stays packed, and only the entries looked up are dequantized.

Source: ONNX Runtime, contrib operator GatherBlockQuantized-1: a table of 2, 4 or 8 bits packed along each entry, blocks of a
power of two from 16 on, low bits first, zero points packed likewise and 2^(bits - 1) where they are left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import (
    MICROSOFT,
    Statements,
    dequantized,
    import_microsoft,
    missing_of_block,
)
from compressctl.backends.releases import reads_packed_table
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import weight_codes
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import all_nodes, attribute, copied
from compressctl.graph.matmul_nbits import SMALLEST_BLOCK, bits_of, pack_table
from compressctl.graph.tensors import size_bytes, to_array
from compressctl.numerics.bitpack import split_bits

_FLOAT = onnx.TensorProto.FLOAT


def write_lookups(emitted: onnx.ModelProto, plan: QuantPlan | None, target: Target) -> None:
    """Change in place every Gather whose table the plan quantizes along its entries; tables that nothing reads then are removed.

    ONNX Runtime dequantizes a whole table for each lookup when a DequantizeLinear says so; OpenVINO looks up first.
    """
    if plan is None or not any(node.op_type == "Gather" for node in all_nodes(emitted.graph)):
        return
    editor, known = GraphEditor(emitted.graph), Statements(emitted)

    def written(node: onnx.NodeProto) -> Replacement:
        quant = plan.weights.get(node.input[0]) if node.op_type == "Gather" else None
        values = editor.array(node.input[0]) if quant is not None and not plan.is_float(node.name) else None
        if quant is None or values is None or values.ndim != 2 or attribute(node, "axis", 0) != 0:
            return None
        block, bits = _block(quant, values.shape[1], target), bits_of(quant)
        unpacked = target.backend == "openvino" and bits in (4, 8)
        if block is not None and bits is not None and not reads_packed_table(bits, target):
            return _looked_up_first(node, values, quant, block, editor)
        if block is None or unpacked:
            return _dequantized(node, values, quant, editor, target)
        known.state(node.output[0], node.output)
        return [_packed(node, values, quant, block, editor)]

    editor.replace_nodes(written)
    import_microsoft(emitted)


def share_packed(emitted: onnx.ModelProto) -> None:
    """Store once what a lookup and a product pack alike: the table of an embedding that is the matrix of the head too."""
    editor = GraphEditor(emitted.graph)
    lookups = [
        node
        for node in all_nodes(emitted.graph)
        if node.op_type in ("Gather", "GatherBlockQuantized") and node.input[0] in editor.stored
    ]

    def shared(node: onnx.NodeProto) -> Replacement:
        packed = editor.stored.get(node.input[1]) if node.op_type == "MatMulNBits" else None
        tables = (one for one in lookups if packed is not None and _is_same(packed, editor.stored[one.input[0]]))
        lookup = next(tables, None)
        if packed is None or lookup is None:
            return None
        written = copied(node)
        shape = editor.constant(np.array(packed.dims, np.int64), packed.name, "shape")
        written.input[1] = editor.new_name(f"{packed.name}_shared")
        for mine, theirs in zip(range(2, len(node.input)), lookup.input[2:], strict=False):
            if node.input[mine] in editor.stored and _is_same(
                editor.stored[node.input[mine]], editor.stored.get(theirs)
            ):
                written.input[mine] = theirs
        # A constant folds when the file is loaded, so that the product sees a constant weight all the same.
        name = written.input[1]
        return [helper.make_node("Reshape", [lookup.input[0], shape], [name], editor.new_name(f"{name}_node")), written]

    editor.replace_nodes(shared)


def share_turned(emitted: onnx.ModelProto) -> None:
    """Store once the 8-bit codes of an embedding's table that is the matrix of a head in integers, too: the head reads them moved down by
    half of what there are, and turned around, which ONNX Runtime computes once, when it loads the file."""
    editor = GraphEditor(emitted.graph)
    tables = {
        node.input[0]: editor.array(node.input[0])
        for node in all_nodes(emitted.graph)
        if node.op_type == "GatherBlockQuantized" and attribute(node, "bits", 0) == 8
    }
    signed = {
        name: (codes.astype(np.int16) - 128).astype(np.int8) for name, codes in tables.items() if codes is not None
    }

    def shared(node: onnx.NodeProto) -> Replacement:
        codes = editor.array(node.input[1]) if node.op_type == "MatMulInteger" and signed else None
        if codes is None or codes.dtype != np.int8:
            return None
        table = next((name for name, other in signed.items() if np.array_equal(other.T, codes)), None)
        if table is None:
            return None
        written, name = copied(node), node.input[1]
        written.input[1] = editor.new_name(f"{name}_shared")
        steps = [editor.new_name(f"{name}_{step}") for step in ("wide", "around_zero", "narrow")]
        half = editor.constant(np.array(128, np.int32), table, "half")
        return [
            helper.make_node("Cast", [table], [steps[0]], f"{steps[0]}_node", to=onnx.TensorProto.INT32),
            helper.make_node("Sub", [steps[0], half], [steps[1]], f"{steps[1]}_node"),
            helper.make_node("Cast", [steps[1]], [steps[2]], f"{steps[2]}_node", to=onnx.TensorProto.INT8),
            helper.make_node("Transpose", [steps[2]], [written.input[1]], f"{written.input[1]}_node", perm=[1, 0]),
            written,
        ]

    editor.replace_nodes(shared)


def share_dequantized(emitted: onnx.ModelProto) -> None:
    """Store once, for OpenVINO, the codes of an embedding's table that is the matrix of the head too: the product reads their transpose,
    which OpenVINO makes a property of the product."""
    editor = GraphEditor(emitted.graph)
    made = {node.output[0]: node for node in emitted.graph.node if node.op_type == "DequantizeLinear"}
    read = {node.input[0] for node in emitted.graph.node if node.op_type == "Gather"}
    multiplied = {node.input[1] for node in emitted.graph.node if node.op_type in ("MatMul", "Gemm")}
    tables = [node for name, node in made.items() if name in read]

    def shared(node: onnx.NodeProto) -> Replacement:
        if node.op_type != "DequantizeLinear" or node.output[0] not in multiplied or node in tables:
            return None
        table = next((one for one in tables if _is_transposed(node, one, editor)), None)
        if table is None:
            return None
        return [helper.make_node("Transpose", [table.output[0]], [node.output[0]], node.name, perm=[1, 0])]

    editor.replace_nodes(shared)


def _is_transposed(node: onnx.NodeProto, table: onnx.NodeProto, editor: GraphEditor) -> bool:
    """Whether a DequantizeLinear makes the transpose of what another makes, from the same codes."""
    if len(node.input) != len(table.input) or attribute(node, "block_size", 0) != attribute(table, "block_size", 0):
        return False
    axes = [int(attribute(one, "axis", 1)) % 2 for one in (node, table)]  # type: ignore[call-overload]
    if axes[0] == axes[1]:
        return False
    stored = [[editor.stored.get(name) for name in one.input] for one in (node, table)]
    if any(
        one is None or other is None or one.data_type != other.data_type for one, other in zip(*stored, strict=True)
    ):
        return False
    pairs = [(editor.array(name), editor.array(other)) for name, other in zip(node.input, table.input, strict=True)]
    return all(
        one is not None and other is not None and one.shape == other.T.shape and np.array_equal(one, other.T)
        for one, other in pairs
    )


def _is_same(tensor: onnx.TensorProto, other: onnx.TensorProto | None) -> bool:
    """Whether they hold the same bytes, in whatever shape."""
    if other is None or size_bytes(tensor) != size_bytes(other):
        return False
    return np.array_equal(to_array(tensor).reshape(-1), to_array(other).reshape(-1))


def _block(quant: TensorQuant, columns: int, target: Target) -> int | None:
    """The block to pack a table in; None where its codes cannot be packed."""
    bits = bits_of(quant)
    if bits is None or columns * bits % 8:
        return None
    if quant.block is not None:
        return quant.block if quant.axis == 1 and quant.block >= SMALLEST_BLOCK else None
    if quant.axis == 1:
        return None
    whole = max(SMALLEST_BLOCK, 1 << (columns - 1).bit_length())
    # OpenVINO refuses a block that is longer than an entry.
    return whole if target.backend != "openvino" or whole == columns else SMALLEST_BLOCK


def _packed(
    node: onnx.NodeProto, values: np.ndarray, quant: TensorQuant, block: int, editor: GraphEditor
) -> onnx.NodeProto:
    table = pack_table(values, quant, block)
    parts = {"table": table.codes, "table_scale": table.scale, "table_zero_point": table.zero_point}
    codes, *others = [editor.constant(part, node.input[0], name) for name, part in parts.items() if part is not None]
    return helper.make_node(
        "GatherBlockQuantized",
        [codes, node.input[1], *others],
        [node.output[0]],
        node.name,
        domain=MICROSOFT,
        bits=table.bits,
        block_size=block,
        quantize_axis=1,
        gather_axis=0,
    )


def _looked_up_first(
    node: onnx.NodeProto, values: np.ndarray, quant: TensorQuant, block: int, editor: GraphEditor
) -> list[onnx.NodeProto]:
    """The same in standard operators: bytes, scales and zero points of the entries are looked up, then codes are computed with."""
    table, columns, name = pack_table(values, quant, block), values.shape[1], node.input[0]
    group = math.gcd(columns, block) if block < columns else columns
    middle = np.full(table.scale.shape, 1 << (table.bits - 1), np.uint8)
    point = middle if table.zero_point is None else split_bits(table.zero_point, table.bits)
    scale, point = (
        np.repeat(part, max(1, block // group), axis=1)[:, : columns // group, None] for part in (table.scale, point)
    )
    nodes: list[onnx.NodeProto] = []

    def stored(part: str, value: Any, dtype: Any = np.int64) -> str:
        return editor.constant(np.asarray(value, dtype), name, part)

    def add(op: str, inputs: list[str], step: str, **attributes: Any) -> str:
        output = node.output[0] if step == "entries" else editor.name(node.name, step)
        called = node.name if step == "bytes" else editor.name(node.name, step, "node")
        nodes.append(helper.make_node(op, inputs, [output], called, **attributes))
        return output

    ids = add("Reshape", [node.input[1], stored("flat", [-1])], "flat_ids")
    codes = add("Gather", [stored("table", table.codes, np.uint8), ids], "bytes", axis=0)
    if table.bits < 8:
        codes = add("Reshape", [codes, stored("one_byte", [-1, 1])], "each_byte")
        shifts = stored("shifts", np.arange(0, 8, table.bits)[None], np.uint8)
        codes = add("BitShift", [codes, shifts], "shifted", direction="RIGHT")
        codes = add("BitwiseAnd", [codes, stored("lowest", (1 << table.bits) - 1, np.uint8)], "codes")
    groups = stored("groups", [-1, columns // group, group])
    codes = add("Cast", [add("Reshape", [codes, groups], "grouped")], "numbers", to=_FLOAT)
    points = add("Gather", [stored("table_zero_point", point, np.uint8), ids], "points", axis=0)
    point_at = add("Cast", [points], "zero_points", to=_FLOAT)
    scale_at = add("Gather", [stored("table_scale", scale, np.float32), ids], "scales", axis=0)
    found = add("Mul", [add("Sub", [codes, point_at], "steps"), scale_at], "values")
    sizes = [add("Shape", [node.input[1]], "ids_shape"), stored("columns", [columns])]
    add("Reshape", [found, add("Concat", sizes, "shape", axis=0)], "entries")
    return nodes


def _dequantized(
    node: onnx.NodeProto, values: np.ndarray, quant: TensorQuant, editor: GraphEditor, target: Target
) -> list[onnx.NodeProto]:
    written = copied(node)
    written.input[0] = editor.name(node.name, node.input[0], "DQ")
    codes, columns, of = weight_codes(values, quant), values.shape[1], (node.input[0],)
    missing = missing_of_block(quant, columns, target) if quant.axis == 1 else 0
    if not missing:
        return [dequantized(of, codes, quant, written.input[0], editor), written]
    codes = np.concatenate([codes, np.zeros((len(codes), missing), codes.dtype)], axis=1)
    written.output[0] = editor.name(node.output[0], "filled")
    bounds = {"first": 0, "columns": columns, "last": -1}
    cut = [editor.constant(np.array([value]), node.name, part) for part, value in bounds.items()]
    return [
        dequantized((*of, "filled"), codes, quant, written.input[0], editor),
        written,
        helper.make_node("Slice", [written.output[0], *cut], [node.output[0]], editor.name(node.name, "cut")),
    ]
