"""Attention with a cache in standard operators, as OpenVINO finds and fuses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.graph.attention import Attention
from compressctl.graph.cached_decoder import MASK, TOKENS, Cached
from compressctl.graph.edit import GraphEditor
from compressctl.graph.rotary import Rotary

_HIDDEN = np.float32(np.finfo(np.float32).min)


class _Nodes:
    """Nodes in the order in which they are made."""

    def __init__(self, editor: GraphEditor, prefix: str) -> None:
        self.made: list[onnx.NodeProto] = []
        self._editor, self._prefix = editor, prefix

    def add(self, op: str, inputs: Sequence[str], part: str, output: str | None = None, **attributes: Any) -> str:
        name = f"{self._prefix}/{part}"
        output = output or self._editor.new_name(name)
        self.made.append(helper.make_node(op, list(inputs), [output], name, **attributes))
        return output

    def constant(self, value: object, part: str, dtype: type = np.int64) -> str:
        return self._editor.constant(np.asarray(value, dtype), "cache", part)


class ScaledDotProduct:
    """Writes attention. OpenVINO finds the turning of queries and keys itself."""

    def turns(self, attention: Attention, rotary: Rotary) -> bool:
        return False

    def __call__(self, editor: GraphEditor, cached: Cached) -> Sequence[onnx.NodeProto]:
        return _written(editor, cached)


def _written(editor: GraphEditor, cached: Cached) -> Sequence[onnx.NodeProto]:
    attention = cached.attention
    nodes = _Nodes(editor, attention.name.removesuffix("/Softmax"))
    mask = _mask(editor, cached, nodes)
    size = attention.head_size
    heads = [
        nodes.add(
            "Transpose",
            [
                nodes.add(
                    "Reshape", [tensor, nodes.constant([0, 0, count, size], f"heads_{count}_{size}")], f"{part}_split"
                )
            ],
            f"{part}_heads",
            perm=[0, 2, 1, 3],
        )
        for tensor, count, part in (
            (cached.queries, attention.heads, "queries"),
            (cached.keys, attention.kv_heads, "keys"),
            (cached.values, attention.kv_heads, "values"),
        )
    ]
    nodes.add("Concat", [cached.past_key, heads[1]], "all_keys", cached.present_key, axis=2)
    nodes.add("Concat", [cached.past_value, heads[2]], "all_values", cached.present_value, axis=2)
    keys, values = (
        _repeated(nodes, name, attention.heads // attention.kv_heads, attention.heads, size, part)
        for name, part in ((cached.present_key, "keys"), (cached.present_value, "values"))
    )
    turned = nodes.add("Transpose", [keys], "keys_transposed", perm=[0, 1, 3, 2])
    scores = nodes.add("MatMul", [heads[0], turned], "scores")
    scale = nodes.constant(attention.scale, f"scale_{attention.scale}", np.float32)
    masked = nodes.add("Add", [nodes.add("Mul", [scores, scale], "scaled"), mask], "masked")
    weights = nodes.add("Softmax", [masked], "softmax", axis=-1)
    mixed = nodes.add("MatMul", [weights, values], "mixed")
    tokens = nodes.add("Transpose", [mixed], "tokens_first", perm=[0, 2, 1, 3])
    width = nodes.constant([0, 0, attention.heads * size], f"width_{attention.heads * size}")
    nodes.add("Reshape", [tokens, width], "merged", cached.output)
    return nodes.made


def _repeated(nodes: _Nodes, tensor: str, times: int, heads: int, size: int, part: str) -> str:
    """Each head for all queries that share it."""
    if times == 1:
        return tensor
    apart = nodes.add("Unsqueeze", [tensor, nodes.constant([2], "third_axis")], f"{part}_apart")
    shape = nodes.constant([1, 1, times, 1, 1], f"times_{times}")
    each = nodes.add("Expand", [apart, shape], f"{part}_each")
    return nodes.add("Reshape", [each, nodes.constant([0, heads, -1, size], f"all_{heads}_{size}")], f"{part}_repeated")


def _mask(editor: GraphEditor, cached: Cached, nodes: _Nodes) -> str:
    """(batch, 1, tokens, all tokens), added to scores. Layers that look as far back share one."""
    key = f"mask_{cached.window}"
    if key in editor.visible:
        return editor.visible[key][0]
    one = nodes.constant(1, "one")
    zero = nodes.constant(0, "zero")
    total = nodes.add("Gather", [nodes.add("Shape", [MASK], "mask_shape"), one], "total")
    tokens = nodes.add("Gather", [nodes.add("Shape", [TOKENS], "tokens_shape"), one], "tokens")
    past = nodes.add("Sub", [total, tokens], "past")
    rows = nodes.add(
        "Unsqueeze", [nodes.add("Range", [past, total, one], "rows"), nodes.constant([1], "second")], "row"
    )
    columns = nodes.add("Range", [zero, total, one], "columns")
    seen = nodes.add("LessOrEqual", [columns, rows], "is_earlier")
    if cached.window is not None:
        nearest = nodes.add("Sub", [rows, nodes.constant(cached.window, f"window_{cached.window}")], "nearest")
        seen = nodes.add("And", [seen, nodes.add("Greater", [columns, nearest], "is_near")], "is_in_window")
    real = nodes.add("Cast", [MASK], "is_real", to=TensorProto.BOOL)
    real = nodes.add("Unsqueeze", [real, nodes.constant([1, 2], "middle")], "is_real_column")
    both = nodes.add("And", [seen, real], "is_seen")
    hidden, shown = nodes.constant(_HIDDEN, "hidden", np.float32), nodes.constant(0, "shown", np.float32)
    mask = nodes.add("Where", [both, shown, hidden], "mask")
    editor.visible[key] = (mask,)
    return mask
