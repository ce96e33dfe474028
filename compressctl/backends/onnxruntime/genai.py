"""Language models for ONNX Runtime GenAI: a folder with the decoder and its cache, genai_config.json and the tokenizer."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compressctl.backends.dialects.packed_qkv import pack_queries_keys_values
from compressctl.backends.dialects.rms_norm import write_rms_norms
from compressctl.backends.dialects.weight_only import import_microsoft
from compressctl.backends.onnx_file import save_onnx, to_onnx
from compressctl.backends.onnxruntime.choose import choose_forms
from compressctl.backends.onnxruntime.eight_bit_cache import store_in_8_bits
from compressctl.backends.onnxruntime.grouped_query import GroupedQuery
from compressctl.core.bundle import Bundle, Continuation, ServedText
from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel
from compressctl.core.quant import TensorQuant
from compressctl.core.regular_files import read_regular
from compressctl.core.target import Target
from compressctl.core.whole_files import write_whole
from compressctl.graph.cache_proof import prove
from compressctl.graph.cached_decoder import MASK, PAST, PRESENT, TOKENS, CachedDecoder, with_cache
from compressctl.graph.plain_attention import with_plain_attention
from compressctl.graph.projections import projections

CONFIG = "genai_config.json"
_MOST_CONFIG = 1 << 20
_KIND = "decoder"
_ROUNDED_CACHE = "its cache keeps keys and values in 8 bits (kv_cache: int8), scaled by the calibration texts: everything measured on it has that rounding in it"
"""GenAI's type of a model that is nothing but a decoder: https://github.com/microsoft/onnxruntime-genai, models/model_type.h."""


class OnnxRuntimeBundler:
    """The Bundler. ONNX Runtime GenAI is imported when a bundle is opened."""

    tool = "ONNX Runtime GenAI"
    package = "onnxruntime-genai"

    def check(self, model: OnnxModel, target: Target, text: ServedText) -> None:
        _decoder(to_onnx(model, _for_one_text(target)), text, is_float=model.quant is None)

    def write(self, model: OnnxModel, target: Target, text: ServedText, folder: Path) -> Bundle:
        """How products with quantized weights are written is measured for one token, as decoding has them."""
        one = _for_one_text(target)
        model = with_plain_attention(model)
        forms, notes = choose_forms(model, one, _as_queries(model), stays_small=True)
        decoder = _decoder(to_onnx(model, one, forms), text, is_float=model.quant is None)
        if target.options.get("kv_cache") == "int8":
            store_in_8_bits(decoder, text.texts)
        files = list(save_onnx(decoder.proto, folder))
        config = folder / CONFIG
        write_whole(config, [json.dumps(_config(decoder, target, text, model), indent=2).encode()])
        copied = [Path(shutil.copyfile(file, folder / file.name)) for file in text.files]
        cache = (_ROUNDED_CACHE,) if target.options.get("kv_cache") == "int8" else ()
        return Bundle("onnxruntime", folder, (*files, config, *copied), (*notes, *cache, *text.notes))

    def open(self, folder: Path, threads: int) -> OnnxRuntimeBundle:
        return OnnxRuntimeBundle(folder)

    def warm_up(self) -> None:
        import onnxruntime_genai  # noqa: F401


def _for_one_text(target: Target) -> Target:
    """Forms of single nodes are those of the plain file, which is called with more rows."""
    asked = target.options.get("weight_form")
    options = {**target.options, "weight_form": "measured"} if isinstance(asked, Mapping) else target.options
    return replace(target, batch_size=1, input_shapes={}, options=options)


def _decoder(plain: onnx.ModelProto, text: ServedText, *, is_float: bool) -> CachedDecoder:
    """plain: the graph of whole texts, as ONNX Runtime is given it. Raises StageError where it cannot be served."""
    decoder = with_cache(plain, GroupedQuery(text.context_length), text.looked_at)
    _check_uniform(decoder)
    pack_queries_keys_values(decoder.proto)
    write_rms_norms(decoder.proto)
    import_microsoft(decoder.proto)
    prove(plain, decoder, text.vocabulary, text.context_length, is_float=is_float)
    return decoder


def _as_queries(model: OnnxModel) -> dict[str, str]:
    """Products of keys and values, each with that of its queries, where their weights are stored alike: one product then makes all three."""
    if model.quant is None:
        return {}
    weights = {
        node.name: model.quant.weights.get(node.input[1]) for node in model.body.graph.node if len(node.input) > 1
    }
    return {
        other: query
        for query, *others in projections(model.body)
        for other in others
        if _are_stored_alike(weights[query], weights[other])
    }


def _are_stored_alike(first: TensorQuant | None, second: TensorQuant | None) -> bool:
    if first is None or second is None:
        return False
    return (first.dtype, first.block, first.axis) == (second.dtype, second.block, second.axis)


def _check_uniform(decoder: CachedDecoder) -> None:
    for name, sizes in (("key-value heads", decoder.kv_heads), ("values in a head", decoder.head_size)):
        if len(set(sizes)) > 1:
            raise StageError(
                f"layers have different numbers of {name} ({', '.join(map(str, sizes))}), and ONNX Runtime GenAI allocates one size for all",
                hint="cut the same share in every layer, as `scope: local` of prune.heads does",
            )


def _config(decoder: CachedDecoder, target: Target, text: ServedText, model: OnnxModel) -> dict[str, Any]:
    """Source: https://onnxruntime.ai/docs/genai/reference/config.html."""
    width = decoder.heads[0] * decoder.head_size[0]
    options: dict[str, Any] = {"log_id": "onnxruntime-genai", "provider_options": []}
    if target.threads:
        options["intra_op_num_threads"] = target.threads
    names = {
        "inputs": {"input_ids": TOKENS, "attention_mask": MASK},
        "outputs": {"logits": model.signature.outputs[0].name},
    }
    for kind in ("key", "value"):
        names["inputs"][f"past_{kind}_names"] = PAST.format("%d", kind)
        names["outputs"][f"present_{kind}_names"] = PRESENT.format("%d", kind)
    ends = text.end_tokens
    return {
        "model": {
            "type": _KIND,
            "context_length": text.context_length,
            "vocab_size": text.vocabulary,
            "bos_token_id": ends[0] if text.start_token is None else text.start_token,
            "eos_token_id": ends[0] if len(ends) == 1 else list(ends),
            "pad_token_id": text.pad_token,
            "decoder": {
                "session_options": options,
                "filename": "model.onnx",
                "hidden_size": width,
                "head_size": decoder.head_size[0],
                "num_attention_heads": decoder.heads[0],
                "num_key_value_heads": decoder.kv_heads[0],
                "num_hidden_layers": len(decoder.heads),
                **names,
            },
        },
        "search": {"max_length": text.context_length, "do_sample": False, "past_present_share_buffer": True},
    }


class OnnxRuntimeBundle:
    """A BundleSession of ONNX Runtime GenAI; logits come from ONNX Runtime itself, on the same file."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai as genai

        self._genai, self._model = genai, genai.Model(str(folder))
        self._folder = folder
        self._session: Any = None

    def generate(self, prompt: Sequence[int], count: int) -> Continuation:
        length = len(prompt) + count
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = self._genai.Generator(self._model, params)
        started = time.perf_counter()
        generator.append_tokens(np.asarray(prompt, np.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(count - 1):
            generator.generate_next_token()
        ended = time.perf_counter()
        tokens = [int(token) for token in generator.get_sequence(0)[len(prompt) :]]
        return Continuation(tuple(tokens), first - started, ended - first)

    def answer(self, prompt: Sequence[int], most: int, is_complete: Callable[[Sequence[int]], bool]) -> tuple[int, ...]:
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(max_length=len(prompt) + most, do_sample=False)
        generator = self._genai.Generator(self._model, params)
        generator.append_tokens(np.asarray(prompt, np.int32))
        tokens: list[int] = []
        while len(tokens) < most and not generator.is_done() and not is_complete(tokens):
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
        return tuple(tokens)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        session = self._opened()
        given: dict[str, np.ndarray] = {
            TOKENS: np.asarray([tokens], np.int64),
            MASK: np.ones((1, len(tokens)), np.int64),
        }
        for value in session.get_inputs():
            if value.name not in given:
                kind = np.int8 if value.type == "tensor(int8)" else np.float32
                given[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), kind)
        found: np.ndarray = session.run([session.get_outputs()[0].name], given)[0][0]
        return found

    def _opened(self) -> Any:
        """Only where logits are asked for: a second copy of the weights would count as memory of serving."""
        if self._session is None:
            import onnxruntime

            config = json.loads(read_regular(self._folder / CONFIG, _MOST_CONFIG))
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = _threads(config)
            self._session = onnxruntime.InferenceSession(
                self._folder / "model.onnx", options, providers=["CPUExecutionProvider"]
            )
        return self._session


def _threads(config: Mapping[str, Any]) -> int:
    found = config["model"]["decoder"]["session_options"].get("intra_op_num_threads", 0)
    return int(found)


BUNDLER = OnnxRuntimeBundler()
