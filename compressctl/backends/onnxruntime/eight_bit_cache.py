"""Keys and values of earlier tokens in 8 bits, by ONNX Runtime's GroupQueryAttention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper

from compressctl.core.errors import StageError
from compressctl.graph.cached_decoder import MASK, PAST, PRESENT, TOKENS, CachedDecoder
from compressctl.graph.session import open_graph
from compressctl.graph.tensors import from_array

_KINDS = ("key", "value")
_SCALES_AT = 12
"""Of the operator's inputs, those of keys and then of values; those before them may be left out by an empty name."""
_LARGEST, _SMALLEST_SCALE = 127, 1e-8
_TEXTS = 64


def store_in_8_bits(decoder: CachedDecoder, texts: Sequence[np.ndarray]) -> None:
    """In place: each key's and value's channel is stored as int8, scaled by the largest magnitude that it has on the texts.

    decoder: whose attention GroupedQuery wrote. texts: (tokens,) int64 each; the first 64 are looked at. Raises StageError without any.
    Source: ONNX Runtime's ContribOperators.md, GroupQueryAttention: k_scale, v_scale, PER_CHANNEL; as of 1.32 processors compute it too.
    """
    if not texts:
        raise StageError(
            "kv_cache: int8 of ONNX Runtime is scaled by the keys and values of calibration texts, and there are none",
            hint="give the recipe data with a calibration split, or leave kv_cache out",
        )
    largest = _largest(decoder, texts[:_TEXTS])
    graph = decoder.proto.graph
    for node in graph.node:
        if node.op_type != "GroupQueryAttention":
            continue
        node.input.extend([""] * (_SCALES_AT - len(node.input)))
        for kind, present in zip(_KINDS, node.output[1:3], strict=True):
            scale = np.maximum(largest[present] / _LARGEST, _SMALLEST_SCALE).astype(np.float32)
            name = f"{present}.scale"
            graph.initializer.append(from_array(scale, name))
            node.input.append(name)
            node.attribute.append(helper.make_attribute(f"{kind[0]}_quant_type", "PER_CHANNEL"))
        node.attribute.append(helper.make_attribute("kv_cache_bit_width", 8))
    cached = {
        name.format(layer, kind) for name in (PAST, PRESENT) for layer in range(len(decoder.heads)) for kind in _KINDS
    }
    for value in (*graph.input, *graph.output):
        if value.name in cached:
            value.type.tensor_type.elem_type = TensorProto.INT8


def _largest(decoder: CachedDecoder, texts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Magnitudes of each output of the cache, (heads * size,)."""
    session = open_graph(decoder.proto)
    names = [PRESENT.format(layer, kind) for layer in range(len(decoder.heads)) for kind in _KINDS]
    empty = {
        PAST.format(layer, kind): np.zeros((1, heads, 0, size), np.float32)
        for layer, (heads, size) in enumerate(zip(decoder.kv_heads, decoder.head_size, strict=True))
        for kind in _KINDS
    }
    found: dict[str, np.ndarray] = {}
    for tokens in texts:
        given = {TOKENS: tokens[None], MASK: np.ones((1, len(tokens)), np.int64), **empty}
        for name, values in zip(names, session.run(names, given), strict=True):
            seen = np.abs(values).max(axis=(0, 2)).ravel()
            found[name] = np.maximum(found[name], seen) if name in found else seen
    return found
