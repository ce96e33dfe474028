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

from compressctl.backends.dialects.weight_only import MICROSOFT, dequantized, inferred
from compressctl.backends.releases import reads_packed_table
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.index import attribute, index, store_what_is_read
from compressctl.graph.matmul_nbits import SMALLEST_BLOCK, bits_of, pack_table, stored
from compressctl.graph.tensors import from_array, size_bytes, to_array
from compressctl.numerics.bitpack import split_bits

_FLOAT = onnx.TensorProto.FLOAT


def write_lookups(emitted: onnx.ModelProto, plan: QuantPlan | None, target: Target) -> None:
    """Change in place every Gather whose table the plan quantizes along its entries; tables that nothing reads then are removed.

    ONNX Runtime dequantizes a whole table for each lookup when a DequantizeLinear says so; OpenVINO looks up first.
    """
    graph = emitted.graph
    if plan is None or not any(node.op_type == "Gather" and node.input[0] in plan.weights for node in graph.node):
        return
    found = index(graph)
    made: dict[str, onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    typed = {value.name: value for value in inferred(emitted).value_info}
    for node in graph.node:
        quant = plan.weights.get(node.input[0]) if node.op_type == "Gather" else None
        values = found.array(node.input[0]) if quant is not None and node.name not in plan.float_nodes else None
        is_table = values is not None and values.ndim == 2 and attribute(node, "axis", 0) == 0
        if quant is None or values is None or not is_table:
            nodes.append(node)
            continue
        block, bits = _block(quant, values.shape[1], target), bits_of(quant)
        unpacked = target.backend == "openvino" and bits in (4, 8)
        if block is not None and bits is not None and not reads_packed_table(bits, target):
            nodes += _looked_up_first(node, values, quant, block, made)
        elif block is None or unpacked:
            nodes += _dequantized(node, values, quant, made)
        else:
            nodes.append(_packed(node, values, quant, block, made))
            if node.output[0] in typed and node.output[0] not in {value.name for value in graph.value_info}:
                # Nobody can infer shapes past an operator that ONNX does not define.
                graph.value_info.add().CopyFrom(typed[node.output[0]])
            if MICROSOFT not in {entry.domain for entry in emitted.opset_import}:
                emitted.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    if not made:
        return
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [tensor for tensor in graph.initializer if tensor.name not in made]
    store_what_is_read(graph, [*kept, *made.values()])


def share_packed(emitted: onnx.ModelProto) -> None:
    """Store once what a lookup and a product pack alike: the table of an embedding that is the matrix of the head too."""
    graph = emitted.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    lookups = [
        node for node in graph.node if node.op_type in ("Gather", "GatherBlockQuantized") and node.input[0] in tensors
    ]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        packed = tensors.get(node.input[1]) if node.op_type == "MatMulNBits" else None
        lookup = next((one for one in lookups if packed is not None and _is_same(packed, tensors[one.input[0]])), None)
        if packed is not None and lookup is not None:
            shape = from_array(np.array(packed.dims, np.int64), f"{packed.name}_shape")
            name = f"{packed.name}_shared"
            # A constant folds when the file is loaded, so that the product sees a constant weight all the same.
            nodes.append(helper.make_node("Reshape", [lookup.input[0], shape.name], [name], name))
            graph.initializer.append(shape)
            node.input[1] = name
            for mine, theirs in zip(range(2, len(node.input)), lookup.input[2:], strict=False):
                if node.input[mine] in tensors and _is_same(tensors[node.input[mine]], tensors.get(theirs)):
                    node.input[mine] = theirs
        nodes.append(node)
    if len(nodes) > len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
        store_what_is_read(graph)


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
    node: onnx.NodeProto, values: np.ndarray, quant: TensorQuant, block: int, made: dict[str, onnx.TensorProto]
) -> onnx.NodeProto:
    table = pack_table(values, quant, block)
    names = [f"{node.input[0]}_{part}" for part in ("table", "table_scale", "table_zero_point")]
    parts = [table.codes, table.scale, *([] if table.zero_point is None else [table.zero_point])]
    made.update({name: stored(name, part) for name, part in zip(names, parts, strict=False)})
    return helper.make_node(
        "GatherBlockQuantized",
        [names[0], node.input[1], *names[1 : len(parts)]],
        [node.output[0]],
        node.name,
        domain=MICROSOFT,
        bits=table.bits,
        block_size=block,
        quantize_axis=1,
        gather_axis=0,
    )


def _looked_up_first(
    node: onnx.NodeProto, values: np.ndarray, quant: TensorQuant, block: int, made: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """The same in standard operators: bytes, scales and zero points of the entries are looked up, then codes are computed with."""
    table, columns, name = pack_table(values, quant, block), values.shape[1], node.input[0]
    group = math.gcd(columns, block) if block < columns else columns
    middle = np.full(table.scale.shape, 1 << (table.bits - 1), np.uint8)
    point = middle if table.zero_point is None else split_bits(table.zero_point, table.bits)
    scale, point = (
        np.repeat(part, max(1, block // group), axis=1)[:, : columns // group, None] for part in (table.scale, point)
    )
    parts: dict[str, np.ndarray] = {
        "table": table.codes,
        "table_scale": scale,
        "table_zero_point": point,
        "flat": np.array([-1], np.int64),
        "one_byte": np.array([-1, 1], np.int64),
        "shifts": np.arange(0, 8, table.bits, dtype=np.uint8)[None],
        "lowest": np.array((1 << table.bits) - 1, np.uint8),
        "groups": np.array([-1, columns // group, group], np.int64),
        "columns": np.array([columns], np.int64),
    }
    made.update({f"{name}_{part}": stored(f"{name}_{part}", value) for part, value in parts.items()})
    nodes: list[onnx.NodeProto] = []

    def add(op: str, inputs: list[str], step: str, **attributes: Any) -> str:
        output = node.output[0] if step == "entries" else f"{node.name}_{step}"
        nodes.append(helper.make_node(op, inputs, [output], node.name if step == "bytes" else output, **attributes))
        return output

    ids = add("Reshape", [node.input[1], f"{name}_flat"], "flat_ids")
    codes = add("Gather", [f"{name}_table", ids], "bytes", axis=0)
    if table.bits < 8:
        codes = add("Reshape", [codes, f"{name}_one_byte"], "each_byte")
        codes = add("BitShift", [codes, f"{name}_shifts"], "shifted", direction="RIGHT")
        codes = add("BitwiseAnd", [codes, f"{name}_lowest"], "codes")
    codes = add("Cast", [add("Reshape", [codes, f"{name}_groups"], "grouped")], "numbers", to=_FLOAT)
    point_at = add(
        "Cast", [add("Gather", [f"{name}_table_zero_point", ids], "points", axis=0)], "zero_points", to=_FLOAT
    )
    scale_at = add("Gather", [f"{name}_table_scale", ids], "scales", axis=0)
    found = add("Mul", [add("Sub", [codes, point_at], "steps"), scale_at], "values")
    shape = add("Concat", [add("Shape", [node.input[1]], "ids_shape"), f"{name}_columns"], "shape", axis=0)
    add("Reshape", [found, shape], "entries")
    return nodes


def _dequantized(
    node: onnx.NodeProto, values: np.ndarray, quant: TensorQuant, made: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    written = onnx.NodeProto()
    written.CopyFrom(node)
    written.input[0] = f"{node.name}_{node.input[0]}_DQ"
    return [dequantized(node.input[0], values, quant, written.input[0], made), written]
