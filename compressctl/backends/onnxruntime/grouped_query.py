"""Attention with a cache as ONNX Runtime computes it on processors: com.microsoft's GroupQueryAttention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.core.errors import StageError
from compressctl.graph.attention import Attention
from compressctl.graph.cached_decoder import MASK, Cached
from compressctl.graph.edit import GraphEditor
from compressctl.graph.rotary import Rotary, tables

DOMAIN = "com.microsoft"

_STORED, _TURNED = 8, 16
"""What sizes of heads must be multiples of: of all, and of those that the operator turns, as ONNX Runtime 1.32 checks."""


@dataclass(frozen=True)
class GroupedQuery:
    """Writes attention. positions: of the longest text, for the tables by which queries and keys are turned.

    Source: ONNX Runtime's ContribOperators.md, GroupQueryAttention: seqlens_k is the length of each text less one.
    """

    positions: int

    def turns(self, attention: Attention, rotary: Rotary) -> bool:
        return attention.head_size % _TURNED == 0 and rotary.size % _TURNED == 0

    def __call__(self, editor: GraphEditor, cached: Cached) -> Sequence[onnx.NodeProto]:
        attention = cached.attention
        if attention.head_size % _STORED:
            raise StageError(
                f"attention {attention.name}: heads of {attention.head_size} values, and ONNX Runtime's GroupQueryAttention takes multiples of {_STORED}"
            )
        lengths, total, nodes = _lengths(editor, is_first=cached.layer == 0)
        settings: dict[str, Any] = {} if cached.window is None else {"local_window_size": cached.window}
        turning: list[str] = []
        if cached.rotary is not None:
            cosine, sine, made = tables(editor, cached.found, cached.rotary, self.positions)
            nodes += made
            turning, settings = [cosine, sine], {**settings, "do_rotary": 1}
        node = helper.make_node(
            "GroupQueryAttention",
            [cached.queries, cached.keys, cached.values, cached.past_key, cached.past_value, lengths, total, *turning],
            [cached.output, cached.present_key, cached.present_value],
            attention.name.removesuffix("/Softmax") + "/GroupQueryAttention",
            domain=DOMAIN,
            num_heads=attention.heads,
            kv_num_heads=attention.kv_heads,
            scale=attention.scale,
            **settings,
        )
        return [*nodes, node]


def _lengths(editor: GraphEditor, *, is_first: bool) -> tuple[str, str, list[onnx.NodeProto]]:
    """Of each text, less one, and of the longest; made by the first attention for all of them."""
    last, total = editor.name("last_token"), editor.name("total_length")
    if not is_first:
        return last, total, []
    axis = editor.constant(np.array([1], np.int64), "token_axis")
    one = editor.constant(np.array(1, np.int64), "second_axis")
    made = {part: editor.name("mask", part) for part in ("count", "less", "shape", "length")}
    nodes = [
        helper.make_node("ReduceSum", [MASK, axis], [made["count"]], made["count"], keepdims=0),
        helper.make_node("Sub", [made["count"], one], [made["less"]], made["less"]),
        helper.make_node("Cast", [made["less"]], [last], last, to=TensorProto.INT32),
        helper.make_node("Shape", [MASK], [made["shape"]], made["shape"]),
        helper.make_node("Gather", [made["shape"], one], [made["length"]], made["length"]),
        helper.make_node("Cast", [made["length"]], [total], total, to=TensorProto.INT32),
    ]
    return last, total, nodes
