"""A decoder of the Llama family read off its graph: each weight by the layer that it has in transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from compressctl.backends.llama_cpp.blocks import Rows, pack
from compressctl.core.bundle import ServedText
from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel
from compressctl.core.quant import TensorQuant
from compressctl.graph.codes import spread, weight_codes
from compressctl.graph.index import GraphIndex, index

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's name by transformers' `model_type`."""
_PRODUCTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Source of the names: llama.cpp, gguf-py/gguf/constants.py, TENSOR_NAMES."""
_BIASED = ("attn_q", "attn_k", "attn_v")
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


@dataclass(frozen=True)
class Decoder:
    """tensors: by their names in a GGUF file, matrices as (out, in); queries and keys are turned by halves, as in transformers.

    frequencies: (head_size / 2,), by which positions turn queries and keys. No `output.weight`: the table of tokens is the head too.
    """

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    width: int
    inner: int
    epsilon: float
    theta: float
    frequencies: np.ndarray
    tensors: Mapping[str, Rows]


def read_decoder(model: OnnxModel, text: ServedText) -> Decoder:
    """Raises StageError for networks of other families, and for what is in the graph and cannot be in such a file."""
    config = text.config
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        raise StageError(
            f"a GGUF file is written of {', '.join(ARCHITECTURES)}, and this is {config.get('model_type')}",
            hint="`bundle: genai` serves others",
        )
    if model.quant is not None and model.quant.activations:
        raise StageError(
            "a GGUF file cannot hold quantized activations", hint="quantize weights alone, as quantize.weights does"
        )
    if text.window is not None and text.window < text.context_length:
        raise StageError(f"its layers look back {text.window:,} tokens, and llama.cpp would let them see all")
    layers = int(config.get("num_hidden_layers", 0))
    if layers < 1:
        raise StageError("the model's config does not say how many layers it has", hint="add num_hidden_layers")
    reader = _Reader(model)
    tensors = dict(_tensors(reader, layers))
    table, head = tensors["token_embd.weight"], tensors["output.weight"]
    if table.kind == head.kind and np.array_equal(table.content, head.content):
        del tensors["output.weight"]
    frequencies = reader.vector("model.rotary_emb")
    size = 2 * len(frequencies)
    outputs, keys, inner = (
        {len(tensors[f"blk.{layer}.{name}.weight"].content) for layer in range(layers) for name in names}
        for names in (("attn_q",), ("attn_k", "attn_v"), ("ffn_gate", "ffn_up"))
    )
    if max(map(len, (outputs, keys, inner))) > 1:
        raise StageError(
            "layers have different numbers of heads or channels, and a GGUF file is written with one of each"
        )
    heads, kv_heads = outputs.pop() // size, keys.pop() // size
    if kv_heads < 1 or heads % kv_heads:
        raise _other("model.layers.0.self_attn")
    width = len(tensors["output_norm.weight"].content)
    if architecture == "qwen2" and heads * size != width:
        raise StageError(
            f"llama.cpp takes qwen2 with heads of {width} numbers together alone, and these have {heads * size}"
        )
    return Decoder(
        architecture,
        layers,
        heads,
        kv_heads,
        size,
        width,
        inner.pop(),
        float(config.get("rms_norm_eps", 1e-6)),
        _theta(config),
        frequencies,
        tensors,
    )


def _theta(config: Mapping[str, Any]) -> float:
    said = config.get("rope_parameters")
    return float((said if isinstance(said, Mapping) else config).get("rope_theta", 10000.0))


def _tensors(reader: _Reader, layers: int) -> Iterator[tuple[str, Rows]]:
    yield "token_embd.weight", reader.table("model.embed_tokens")
    for layer in range(layers):
        scope = f"model.layers.{layer}"
        for name, part in _PRODUCTS.items():
            yield f"blk.{layer}.{name}.weight", reader.product(f"{scope}.{part}")
            if name in _BIASED and reader.has_bias(f"{scope}.{part}"):
                yield f"blk.{layer}.{name}.bias", Rows("F32", reader.vector(f"{scope}.{part}"))
        for name, part in _NORMS.items():
            yield f"blk.{layer}.{name}.weight", Rows("F32", reader.vector(f"{scope}.{part}"))
        for name, part in _HEAD_NORMS.items():
            if reader.has(f"{scope}.{part}"):
                yield f"blk.{layer}.{name}.weight", Rows("F32", reader.vector(f"{scope}.{part}"))
    yield "output_norm.weight", Rows("F32", reader.vector("model.norm"))
    yield "output.weight", reader.product("lm_head")


class _Reader:
    """Constants of a graph by the module whose nodes read them: equal ones are stored once, by the name of the first."""

    def __init__(self, model: OnnxModel) -> None:
        self._found: GraphIndex = index(model.body.graph)
        self._plan = {} if model.quant is None else model.quant.weights
        self._scopes: dict[str, list[onnx.NodeProto]] = {}
        for node in model.body.graph.node:
            self._scopes.setdefault(node.name.partition("/")[0], []).append(node)

    def has(self, scope: str) -> bool:
        return scope in self._scopes

    def has_bias(self, scope: str) -> bool:
        return any(node.op_type == "Add" for node in self._scopes.get(scope, ()))

    def table(self, scope: str) -> Rows:
        return self._rows(self._read_by(scope, "Gather", 0), scope, is_transposed=False)

    def product(self, scope: str) -> Rows:
        name = self._read_by(scope, "MatMul", 1)
        maker = self._found.producers.get(name)
        if maker is not None and maker.op_type == "Transpose":  # a table that is the head too
            return self._rows(maker.input[0], scope, is_transposed=False)
        return self._rows(name, scope, is_transposed=True)

    def vector(self, scope: str) -> np.ndarray:
        """The only constant of one axis and more than one number that the module's nodes read."""
        names = {name for node in self._scopes.get(scope, ()) for name in node.input}
        arrays = [array for name in sorted(names) if (array := self._found.array(name)) is not None]
        vectors = [array.reshape(-1) for array in arrays if array.size > 1 and array.size == max(array.shape)]
        vectors = [vector for vector in vectors if vector.dtype.kind == "f"]
        if len(vectors) != 1:
            raise _other(scope)
        return vectors[0].astype(np.float32)

    def _read_by(self, scope: str, op: str, place: int) -> str:
        nodes = [node for node in self._scopes.get(scope, ()) if node.op_type == op]
        if len(nodes) != 1:
            raise _other(scope)
        return str(nodes[0].input[place])

    def _rows(self, name: str, scope: str, *, is_transposed: bool) -> Rows:
        values, quant = self._found.array(name), self._plan.get(name)
        if values is None or values.ndim != 2:
            raise _other(scope)
        if quant is None:
            plain = values.astype(np.float32)
            return Rows("F32", np.ascontiguousarray(plain.T if is_transposed else plain))
        codes, scale, point = (part.T if is_transposed else part for part in _spread(values, quant))
        try:
            return pack(codes, scale, point, _least(quant))
        except ValueError as error:
            raise StageError(
                f"{scope} cannot be stored in a GGUF file with the codes that it has: {error}",
                hint="quantize.weights with bits 4 or 8 and a group_size of 32 or a multiple of it; other layers with `bits: float` in overrides",
            ) from error


def _spread(values: np.ndarray, quant: TensorQuant) -> tuple[np.ndarray, ...]:
    """Codes, scales and zero points, each in the shape of the weight."""
    parts = (
        weight_codes(values, quant),
        spread(quant.scale, quant, values.shape),
        spread(quant.zero_point, quant, values.shape),
    )
    codes, scale, point = (np.broadcast_to(part, values.shape) for part in parts)
    return codes.astype(np.int32), scale.astype(np.float32), point.astype(np.int32)


def _least(quant: TensorQuant) -> int:
    return int(ml_dtypes.iinfo(np.dtype(quant.dtype)).min)


def _other(scope: str) -> StageError:
    return StageError(
        f"{scope} is not what a decoder of the Llama family has there: a GGUF file cannot hold the network as it is",
        hint="stages that change its structure need `bundle: genai`",
    )
