"""Queries, keys and values by one product, as ONNX Runtime's GroupQueryAttention takes them: three small kernels take longer than one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, copied, index

_OUTPUTS = "N"
"""MatMulNBits's attribute with its number of outputs."""


@dataclass(frozen=True)
class _Projection:
    """bias: its Add, None without one."""

    product: onnx.NodeProto
    bias: onnx.NodeProto | None


def pack_queries_keys_values(proto: onnx.ModelProto) -> None:
    """Change in place every GroupQueryAttention whose queries, keys and values are products alike of one tensor: float ones, or of codes with the
    same bits and blocks."""
    found = index(proto.graph)
    editor = GraphEditor(proto.graph)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        if node.op_type != "GroupQueryAttention":
            continue
        three = [_projection(found, name) for name in node.input[:3]]
        if None in three:
            continue
        parts = [one for one in three if one is not None]
        if _are_alike(found, parts):
            replaced |= _packed(editor, found, node, parts)

    def replacement(node: onnx.NodeProto) -> Replacement:
        return replaced.get(node.name)

    editor.replace_nodes(replacement)
    editor.drop_unread()


def _projection(found: GraphIndex, tensor: str) -> _Projection | None:
    node = found.producers.get(tensor)
    bias = None
    if node is not None and node.op_type == "Add" and found.only_consumer(tensor) is not None:
        bias = node
        computed = [name for name in node.input if name in found.producers]
        node = found.producers[computed[0]] if len(computed) == 1 else None
    if node is None or node.op_type not in ("MatMul", "MatMulNBits") or found.only_consumer(node.output[0]) is None:
        return None
    if any(name and name not in found.initializers for name in node.input[1:]):
        return None
    return _Projection(node, bias)


def _are_alike(found: GraphIndex, parts: Sequence[_Projection]) -> bool:
    first = parts[0].product
    return all(
        one.product.op_type == first.op_type
        and one.product.input[0] == first.input[0]
        and [bool(name) for name in one.product.input] == [bool(name) for name in first.input]
        and _settings(one.product) == _settings(first)
        and (one.bias is None) == (parts[0].bias is None)
        and len(found.initializers[one.product.input[1]].dims) == len(found.initializers[first.input[1]].dims)
        for one in parts
    ) and len({id(one.product) for one in parts}) == len(parts)


def _settings(node: onnx.NodeProto) -> list[bytes]:
    return sorted(entry.SerializeToString() for entry in node.attribute if entry.name != _OUTPUTS)


def _packed(
    editor: GraphEditor, found: GraphIndex, attention: onnx.NodeProto, parts: Sequence[_Projection]
) -> dict[str, list[onnx.NodeProto]]:
    """By name of a node, what stands for it."""
    product = copied(parts[0].product)
    name = f"{attention.name.rpartition('/')[0]}/qkv_proj"
    product.name = editor.new_name(name)
    for position in range(1, len(product.input)):
        if product.input[position]:
            tensors = [found.array(one.product.input[position]) for one in parts]
            axis = 1 if product.op_type == "MatMul" else 0
            joined = np.concatenate([tensor for tensor in tensors if tensor is not None], axis)
            product.input[position] = editor.constant(joined, f"{name}.{position}")
    for entry in product.attribute:
        if entry.name == _OUTPUTS:
            entry.i = sum(_outputs(one.product) for one in parts)
    made = [product]
    product.output[:] = [editor.new_name(f"{name}_output")]
    if parts[0].bias is not None:
        biases = [_bias(found, one.bias) for one in parts if one.bias is not None]
        bias = editor.constant(np.concatenate(biases), f"{name}.bias")
        total = editor.new_name(f"{name}_biased")
        made.append(helper.make_node("Add", [product.output[0], bias], [total], f"{name}/Add"))
    node = copied(attention)
    node.input[:3] = [made[-1].output[0], "", ""]
    gone = [one.product.name for one in parts] + [one.bias.name for one in parts if one.bias is not None]
    return {**{name: [] for name in gone}, attention.name: [*made, node]}


def _outputs(node: onnx.NodeProto) -> int:
    return int(next(entry.i for entry in node.attribute if entry.name == _OUTPUTS))


def _bias(found: GraphIndex, node: onnx.NodeProto) -> np.ndarray:
    value = next(found.array(name) for name in node.input if name in found.initializers)
    assert value is not None
    return value
