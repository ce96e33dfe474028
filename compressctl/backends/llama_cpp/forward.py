"""What a GGUF file's tensors compute, by llama.cpp's definition of the architecture, in plain NumPy: the graph must compute the same."""

from __future__ import annotations

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from scipy.special import softmax

from compressctl.backends.llama_cpp.blocks import Rows
from compressctl.backends.llama_cpp.network import Decoder
from compressctl.backends.onnx_file import to_onnx
from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel
from compressctl.core.target import Target
from compressctl.graph.cached_decoder import MASK, TOKENS
from compressctl.graph.open_axes import graph_inputs
from compressctl.graph.session import open_graph

_LENGTH = 24
_FLOAT, _ROUNDED = 1e-3, 1e-2
"""Root mean square of differences beside that of the logits; scales are float16 in the file."""


def prove(decoder: Decoder, model: OnnxModel, target: Target, vocabulary: int, longest: int) -> None:
    """Run random tokens through both. Raises StageError where the logits differ."""
    tokens = np.random.default_rng(0).integers(0, vocabulary, min(_LENGTH, longest))
    plain = to_onnx(model, target)
    given = {TOKENS: tokens[None], MASK: np.ones((1, len(tokens)), np.int64)}
    names = {value.name for value in graph_inputs(plain.graph)}
    wanted = open_graph(plain).run(None, {name: value for name, value in given.items() if name in names})[0][0]
    found = logits(decoder, tokens)
    apart = float(np.sqrt(np.mean((found - wanted) ** 2) / max(np.mean(wanted**2), 1e-30)))
    if not apart <= (_FLOAT if model.quant is None else _ROUNDED):
        raise StageError(
            f"what a GGUF file could hold of it is not the network: on {len(tokens)} random tokens logits differ by {apart:.2%} of their size",
            hint="something in the network is not as in the Llama family; `bundle: genai` serves others",
        )


def logits(decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    """(tokens, vocabulary)."""
    table = _values(decoder.tensors["token_embd.weight"])
    hidden = table[tokens]
    angles = np.arange(len(tokens))[:, None] * decoder.frequencies[None].astype(np.float64)
    for layer in range(decoder.layers):
        hidden = hidden + _attention(decoder, f"blk.{layer}.", hidden, angles)
        hidden = hidden + _gated(decoder, f"blk.{layer}.", hidden)
    hidden = _normed(decoder, "output_norm", hidden)
    head = decoder.tensors.get("output.weight")
    return np.asarray(hidden @ (table if head is None else _values(head)).T)


def _attention(decoder: Decoder, layer: str, hidden: np.ndarray, angles: np.ndarray) -> np.ndarray:
    normed = _normed(decoder, f"{layer}attn_norm", hidden)
    parts = []
    for name in ("attn_q", "attn_k", "attn_v"):
        made = _product(decoder, layer + name, normed)
        heads = made.reshape(len(hidden), -1, decoder.head_size).swapaxes(0, 1)
        if f"{layer}{name}_norm.weight" in decoder.tensors:
            heads = _normed(decoder, f"{layer}{name}_norm", heads)
        parts.append(heads)
    queries, keys = (_turned(part, angles) for part in parts[:2])
    keys, values = (np.repeat(part, decoder.heads // decoder.kv_heads, 0) for part in (keys, parts[2]))
    scores = queries @ keys.swapaxes(1, 2) / np.sqrt(decoder.head_size)
    scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    mixed = (softmax(scores, -1) @ values).swapaxes(0, 1).reshape(len(hidden), -1)
    return _product(decoder, f"{layer}attn_output", mixed)


def _turned(heads: np.ndarray, angles: np.ndarray) -> np.ndarray:
    first, second = np.split(heads, 2, -1)
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


def _gated(decoder: Decoder, layer: str, hidden: np.ndarray) -> np.ndarray:
    normed = _normed(decoder, f"{layer}ffn_norm", hidden)
    gate = _product(decoder, f"{layer}ffn_gate", normed)
    return _product(
        decoder, f"{layer}ffn_down", gate / (1 + np.exp(-gate)) * _product(decoder, f"{layer}ffn_up", normed)
    )


def _product(decoder: Decoder, name: str, given: np.ndarray) -> np.ndarray:
    made = given @ _values(decoder.tensors[f"{name}.weight"]).T
    bias = decoder.tensors.get(f"{name}.bias")
    return np.asarray(made if bias is None else made + bias.content)


def _normed(decoder: Decoder, name: str, given: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.mean(given**2, -1, keepdims=True) + decoder.epsilon)
    return np.asarray(given / scale * decoder.tensors[f"{name}.weight"].content)


def _values(rows: Rows) -> np.ndarray:
    if rows.kind == "F32":
        return rows.content
    return np.asarray(dequantize(rows.content, GGMLQuantizationType[rows.kind]))
