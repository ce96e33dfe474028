"""Language models for OpenVINO GenAI: a folder with the stateful decoder, its tokenizer as OpenVINO models, and the configs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.backends.onnx_file import save_onnx, to_onnx
from compressctl.backends.params import OpenVinoParams
from compressctl.core.bundle import Bundle, Continuation, ServedText
from compressctl.core.errors import MissingDependencyError, StageError, in_short
from compressctl.core.failures import refused_in
from compressctl.core.model import OnnxModel
from compressctl.core.quiet import quiet
from compressctl.core.target import Target
from compressctl.core.whole_files import FolderInWriting, write_whole
from compressctl.graph.cache_proof import prove
from compressctl.graph.cached_decoder import MASK, TOKENS, CachedDecoder, with_cache
from compressctl.graph.plain_attention import with_plain_attention

MODEL = "openvino_model.xml"
_KV_CACHE = {"float32": "f32", "int8": "u8"}
"""Read by OpenVINO from the model where a caller asks for nothing else; its own choice on processors is u8."""
_ROUNDED_CACHE = (
    "its cache keeps keys and values in 8 bits (kv_cache: int8): times, memory and continued texts have that rounding in them, perplexity and KL "
    "divergence do not, since whole texts are read without a cache"
)


class OpenVinoBundler:
    """The Bundler. OpenVINO GenAI is imported when a bundle is opened."""

    tool = "OpenVINO GenAI"
    package = "openvino-genai"

    def check(self, model: OnnxModel, target: Target, text: ServedText) -> None:
        _decoder(model, target, text)
        _converted_tokenizer(text)

    def write(self, model: OnnxModel, target: Target, text: ServedText, folder: Path) -> Bundle:
        import openvino

        from compressctl.backends.openvino.convert import convert
        from compressctl.backends.openvino.half_scales import halve_scales
        from compressctl.backends.openvino.nncf_weights import compress_weights
        from compressctl.backends.openvino.stateful import make_stateful
        from compressctl.backends.openvino.translate import translated

        options = OpenVinoParams.model_validate_json(json.dumps(dict(target.options)))
        decoder = _decoder(model, target, text)
        with FolderInWriting(folder) as scratch:
            source = save_onnx(decoder.proto, scratch)
            try:
                converted = convert(source[0])
                is_halved = (
                    model.quant is not None and options.float16_constants is None and halve_scales(converted) > 0
                )
                make_stateful(converted)
                converted.set_rt_info(_KV_CACHE[options.kv_cache], ["runtime_options", "KV_CACHE_PRECISION"])
                if options.weights is not None:
                    converted = compress_weights(converted, options.weights)
            except Exception as error:
                raise translated(error, source[0]) from error
            openvino.save_model(converted, scratch / MODEL, compress_to_fp16=bool(options.float16_constants))
            files = [(scratch / name).replace(folder / name) for name in (MODEL, MODEL.replace(".xml", ".bin"))]
        files += _tokenizer(text, folder)
        config = folder / "config.json"
        write_whole(config, [json.dumps(dict(text.config), indent=2).encode()])
        files += [config, *(Path(shutil.copyfile(file, folder / file.name)) for file in text.files)]
        halved = ("scales of quantized weights are stored as float16 in the file",) if is_halved else ()
        cache = (_ROUNDED_CACHE,) if options.kv_cache == "int8" else ()
        return Bundle("openvino", folder, tuple(files), (*halved, *cache, *_short_products(), *text.notes))

    def open(self, folder: Path, threads: int) -> OpenVinoBundle:
        return OpenVinoBundle(folder, threads)

    def warm_up(self) -> None:
        import openvino_genai  # noqa: F401


def _decoder(model: OnnxModel, target: Target, text: ServedText) -> CachedDecoder:
    """Raises StageError for a network that cannot be served."""
    from compressctl.backends.openvino.scaled_dot_product import ScaledDotProduct

    plain = to_onnx(with_plain_attention(model), replace(target, batch_size=1, input_shapes={}))
    decoder = with_cache(plain, ScaledDotProduct(), text.looked_at)
    prove(plain, decoder, text.vocabulary, text.context_length, is_float=model.quant is None)
    return decoder


def _short_products() -> tuple[str, ...]:
    """What the tool's defaults do on this processor. A model's file cannot ask for another precision, only who opens it."""
    import openvino

    name = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    if name == "f32":
        return ()
    words = {"bf16": "bfloat16", "f16": "float16"}.get(name, name)
    return (
        f"on this processor OpenVINO GenAI computes in {words} what is not integer, in the float bundle too, unless who opens it asks for "
        "INFERENCE_PRECISION_HINT=f32: perplexity, divergence, continuations and times have that in them",
    )


def _tokenizer(text: ServedText, folder: Path) -> list[Path]:
    import openvino

    files = []
    for converted, name in zip(_converted_tokenizer(text), ("openvino_tokenizer", "openvino_detokenizer"), strict=True):
        openvino.save_model(converted, folder / f"{name}.xml", compress_to_fp16=False)
        files += [folder / f"{name}.xml", folder / f"{name}.bin"]
    return files


def _converted_tokenizer(text: ServedText) -> Sequence[Any]:
    """The tokenizer and what turns tokens into text again, as OpenVINO models. Raises StageError for one that OpenVINO Tokenizers cannot convert."""
    try:
        from transformers import AutoTokenizer

        with _itself_unchanged():
            from openvino_tokenizers import convert_tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "a bundle for OpenVINO GenAI", "openvino_tokenizers", "pip install 'compressctl[openvino-genai]'"
        ) from error
    try:
        with quiet(prints=True):
            tokenizer = AutoTokenizer.from_pretrained(text.folder, local_files_only=True, trust_remote_code=False)
            made: Sequence[Any] = convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:
        said = f"OpenVINO Tokenizers cannot convert the tokenizer of {text.folder}"
        raise refused_in(said, error) or StageError(f"{said}: {in_short(error)}") from error
    return made


@contextmanager
def _itself_unchanged() -> Iterator[None]:
    """OpenVINO Tokenizers, once imported, gives every new Core its operators: what this process converts, others could not read."""
    import openvino

    classes = (openvino.Core, openvino.frontend.frontend.FrontEnd)
    stock = [found.__init__ for found in classes]
    try:
        yield
    finally:
        for found, init in zip(classes, stock, strict=True):
            found.__init__ = init


class OpenVinoBundle:
    """A BundleSession of OpenVINO GenAI; logits come from OpenVINO itself, on the same file."""

    def __init__(self, folder: Path, threads: int) -> None:
        import openvino_genai as genai

        self._genai, self._folder, self._threads = genai, folder, threads
        self._pipeline = genai.LLMPipeline(str(folder), "CPU", **_properties(threads))
        self._request: Any = None

    def generate(self, prompt: Sequence[int], count: int) -> Continuation:
        given = self._given(prompt)
        settings = self._genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        started = time.perf_counter()
        found = self._pipeline.generate(given, settings)
        ended = time.perf_counter()
        metrics = found.perf_metrics
        first = metrics.get_ttft().mean / 1000
        return Continuation(tuple(map(int, found.tokens[0])), first, max(ended - started - first, 0.0))

    def answer(self, prompt: Sequence[int], most: int, is_complete: Callable[[Sequence[int]], bool]) -> tuple[int, ...]:
        listener = _listener(is_complete)
        settings = self._genai.GenerationConfig(max_new_tokens=most, do_sample=False)
        settings.set_eos_token_id(self._pipeline.get_generation_config().eos_token_id)
        self._pipeline.generate(self._given(prompt), settings, listener)
        return tuple(listener.tokens)

    def _given(self, prompt: Sequence[int]) -> Any:
        import openvino

        tokens = np.asarray([prompt], np.int64)
        return self._genai.TokenizedInputs(openvino.Tensor(tokens), openvino.Tensor(np.ones_like(tokens)))

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        request = self._opened()
        request.reset_state()
        given = {
            TOKENS: np.asarray([tokens], np.int64),
            MASK: np.ones((1, len(tokens)), np.int64),
            "beam_idx": np.zeros(1, np.int32),
        }
        request.infer(given)
        return np.array(request.get_output_tensor(0).data[0])

    def _opened(self) -> Any:
        if self._request is None:
            import openvino

            compiled = openvino.Core().compile_model(str(self._folder / MODEL), "CPU", _properties(self._threads))
            self._request = compiled.create_infer_request()
        return self._request


def _listener(is_complete: Callable[[Sequence[int]], bool]) -> Any:
    """What OpenVINO GenAI tells each token to, and which stops it."""
    import openvino_genai as genai

    class Listener(genai.StreamerBase):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.tokens: list[int] = []

        def write(self, token: int | Sequence[int]) -> Any:
            self.tokens.extend([token] if isinstance(token, int) else token)
            return genai.StreamingStatus.STOP if is_complete(self.tokens) else genai.StreamingStatus.RUNNING

        def end(self) -> None:
            pass

    return Listener()


def _properties(threads: int) -> dict[str, Any]:
    return {"INFERENCE_NUM_THREADS": threads} if threads else {}


BUNDLER = OpenVinoBundler()
