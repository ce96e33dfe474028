"""Language models for llama.cpp: one GGUF file, with the tokenizer in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from compressctl.backends.llama_cpp.network import Decoder, read_decoder
from compressctl.backends.llama_cpp.vocabulary import Vocabulary, read_vocabulary
from compressctl.core.bundle import Bundle, BundleSession, ServedText
from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel
from compressctl.core.quiet import mute
from compressctl.core.regular_files import read_regular
from compressctl.core.target import Target
from compressctl.core.whole_files import FolderInWriting
from compressctl.sources.tokenizing import TOKENIZER, Tokenizer

FILE = "model.gguf"
_SAMPLES = (
    "The cat sat on the mat.", "It's 12345 o'clock, isn't it?", "  two  spaces\n\nand\tlines \n", "größer, 東京, привет, 🙂!", "def f(x):\n    return x**2",
)  # fmt: skip
_MOST_TEMPLATE = 1 << 20


class LlamaCppBundler:
    """The Bundler. llama.cpp is imported when a file is checked or opened."""

    tool = "llama.cpp"
    package = "llama-cpp-python"

    def check(self, model: OnnxModel, target: Target, text: ServedText) -> None:
        read_vocabulary(text.folder / TOKENIZER, text.vocabulary)
        _decoder(model, target, text)

    def write(self, model: OnnxModel, target: Target, text: ServedText, folder: Path) -> Bundle:
        vocabulary = read_vocabulary(text.folder / TOKENIZER, text.vocabulary)
        decoder = _decoder(model, target, text)
        words = Tokenizer(text.folder / TOKENIZER, "a GGUF file")
        with FolderInWriting(folder) as scratch:
            _write(scratch / FILE, decoder, vocabulary, words, text)
            _check_words(scratch / FILE, words)
            file = (scratch / FILE).replace(folder / FILE)
        halved = any(rows.kind != "F32" for rows in decoder.tensors.values())
        rounded = ("scales of quantized weights are stored as float16 in the file",) if halved else ()
        cache = "its cache was float32 while it was measured; llama.cpp's own choice is float16"
        return Bundle("llama.cpp", folder, (file,), (*rounded, cache, *text.notes))

    def open(self, folder: Path, threads: int) -> BundleSession:
        from compressctl.backends.llama_cpp.session import LlamaCppBundle

        return LlamaCppBundle(folder / FILE, threads)

    def warm_up(self) -> None:
        import llama_cpp  # noqa: F401


def _decoder(model: OnnxModel, target: Target, text: ServedText) -> Decoder:
    """Raises StageError for a network that such a file cannot hold."""
    from compressctl.backends.llama_cpp.forward import prove

    decoder = read_decoder(model, text)
    if decoder.architecture != "llama" and not np.allclose(_factors(decoder), 1, rtol=1e-4):
        raise StageError(f"llama.cpp turns {decoder.architecture} by plain frequencies alone, and these are scaled")
    prove(decoder, model, replace(target, batch_size=1, input_shapes={}), text.vocabulary, text.context_length)
    return decoder


def _factors(decoder: Decoder) -> np.ndarray:
    """By which frequencies are divided (Llama 3's longer texts)."""
    plain = decoder.theta ** (-np.arange(0, decoder.head_size, 2) / decoder.head_size)
    return np.asarray(plain / decoder.frequencies, np.float32)


def _write(file: Path, decoder: Decoder, vocabulary: Vocabulary, words: Tokenizer, text: ServedText) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(file, decoder.architecture)
    writer.add_name(text.folder.name)
    writer.add_context_length(text.context_length)
    writer.add_embedding_length(decoder.width)
    writer.add_block_count(decoder.layers)
    writer.add_feed_forward_length(decoder.inner)
    writer.add_head_count(decoder.heads)
    writer.add_head_count_kv(decoder.kv_heads)
    writer.add_key_length(decoder.head_size)
    writer.add_value_length(decoder.head_size)
    writer.add_rope_dimension_count(decoder.head_size)
    writer.add_rope_freq_base(decoder.theta)
    writer.add_layer_norm_rms_eps(decoder.epsilon)
    writer.add_vocab_size(text.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    start, ends = text.start_token, text.end_tokens
    writer.add_bos_token_id(ends[0] if start is None else start)
    writer.add_eos_token_id(ends[0])
    if len(ends) > 1:
        writer.add_eot_token_id(ends[1])
    writer.add_pad_token_id(text.pad_token)
    writer.add_add_bos_token(start is not None and start in words.opening)
    template = text.folder / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(read_regular(template, _MOST_TEMPLATE).decode())
    factors = _factors(decoder)
    if not np.allclose(factors, 1, rtol=1e-4):
        writer.add_tensor("rope_freqs.weight", factors)
    for name, rows in decoder.tensors.items():
        is_turned = decoder.architecture == "llama" and name.split(".")[-2] in ("attn_q", "attn_k")
        content = _interleaved(rows.content, decoder.head_size) if is_turned else rows.content
        writer.add_tensor(name, np.ascontiguousarray(content), raw_dtype=GGMLQuantizationType[rows.kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(rows: np.ndarray, head_size: int) -> np.ndarray:
    """llama.cpp turns neighbours of a head in this architecture, transformers a number of the first half with one of the second."""
    heads = rows.reshape(-1, 2, head_size // 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def _check_words(file: Path, words: Tokenizer) -> None:
    """Raises StageError where llama.cpp makes other tokens of a text."""
    import llama_cpp

    with mute(2):
        made = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    for sample in _SAMPLES:
        if made.tokenize(sample.encode(), add_bos=False, special=True) != words.running(sample).tolist():
            raise StageError(
                f"llama.cpp makes other tokens of {sample!r} than {words.path}",
                hint="`bundle: genai` takes it as it is",
            )


BUNDLER = LlamaCppBundler()
