"""GGUF files run by llama.cpp: they write what transformers writes, and what they cannot hold is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from support.tiny_transformers import SIZES, write_byte_pairs, write_tokenizer  # noqa: E402

from compressctl.backends.llama_cpp.bundle import BUNDLER  # noqa: E402
from compressctl.backends.llama_cpp.vocabulary import _SPLITS  # noqa: E402
from compressctl.core.bundle import ServedText  # noqa: E402
from compressctl.core.errors import StageError  # noqa: E402
from compressctl.core.model import OnnxModel, TorchModel  # noqa: E402
from compressctl.core.target import Target  # noqa: E402
from compressctl.graph.lower import lower  # noqa: E402
from compressctl.recipe.schema import ModelSection  # noqa: E402
from compressctl.sources.huggingface.text import served_text  # noqa: E402
from compressctl.sources.load import load_model  # noqa: E402
from compressctl.sources.params import HuggingFaceParams  # noqa: E402

_ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_SIZES: dict[str, Any] = {**SIZES, "vocab_size": 304, "num_key_value_heads": 2, "head_dim": 16, **_ENDS}
_LONGER = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_TARGET = Target(backend="onnxruntime", device="cpu", threads=1, batch_size=1)
_TOKENS = 16


def _saved(folder: Path, name: str, split: str = "gpt-2", **sizes: Any) -> Path:
    """A network with random weights, norms and biases included, and a tokenizer that splits texts so."""
    config = getattr(transformers, f"{name}Config")(**{**_SIZES, **sizes})
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}ForCausalLM")(config)
    for called, values in network.named_parameters():
        values.data = torch.randn_like(values) * 0.2 + (1.0 if "norm" in called else 0.0)
    network.save_pretrained(folder)
    write_byte_pairs(folder)
    if split != "gpt-2":
        file = folder / "tokenizer.json"
        pattern = next(pattern for pattern, named in _SPLITS.items() if named == split)
        steps = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ]
        tokenizer = json.loads(file.read_text())
        file.write_text(json.dumps({**tokenizer, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}))
    return folder


def _graph(folder: Path) -> tuple[OnnxModel, ServedText]:
    params = HuggingFaceParams(path=folder.name)
    loaded = load_model(ModelSection("huggingface", params), folder.parent, 0)
    assert isinstance(loaded, TorchModel)
    text = served_text(params, folder.parent)
    return lower(loaded), replace(text, vocabulary=_SIZES["vocab_size"])


def _greedy(folder: Path, prompt: list[int]) -> list[int]:
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = list(prompt)
    for _ in range(_TOKENS):
        with torch.no_grad():
            logits = network(torch.tensor([tokens])).logits[0, -1]
        logits[1] = -torch.inf
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "split", "sizes"),
    [
        ("Llama", "gpt-2", {}),
        ("Llama", "llama-bpe", {"rope_parameters": {**_LONGER, "original_max_position_embeddings": 16}}),
        ("Mistral", "gpt-2", {"sliding_window": None}),
        ("Qwen2", "qwen2", {"tie_word_embeddings": True, "num_attention_heads": 2}),
        ("Qwen3", "qwen2", {}),
    ],
)
def test_a_float_file_writes_what_transformers_writes(
    tmp_path: Path, name: str, split: str, sizes: dict[str, Any]
) -> None:
    folder = _saved(tmp_path / "model", name, split, **sizes)
    model, text = _graph(folder)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    BUNDLER.check(model, _TARGET, text)
    BUNDLER.write(model, _TARGET, text, bundle)
    opened = BUNDLER.open(bundle, 1)
    prompt = np.random.default_rng(1).integers(3, 300, 20).tolist()
    assert list(opened.generate(prompt, _TOKENS).tokens) == _greedy(folder, prompt)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        wanted = network(torch.tensor([prompt])).logits[0].numpy()
    np.testing.assert_allclose(opened.logits(prompt), wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_an_answer_ends_where_the_text_ends_or_is_complete(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "model", "Llama")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    BUNDLER.write(_graph(folder)[0], _TARGET, _graph(folder)[1], bundle)
    opened = BUNDLER.open(bundle, 1)
    written = opened.generate([5, 6, 7], 8).tokens
    assert opened.answer([5, 6, 7], 8, lambda tokens: len(tokens) == 3) == written[:3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        ("Gemma", {}, "a GGUF file is written of llama, mistral, qwen2, qwen3"),
        ("Mistral", {"sliding_window": 16}, "look back 16 tokens"),
        ("Qwen3", {"rope_parameters": {**_LONGER, "original_max_position_embeddings": 16}}, "by plain frequencies alone"),
        ("Qwen2", {}, "with heads of 32 numbers together alone"),
        ("Llama", {"attention_bias": True}, "not the network"),
    ],
)  # fmt: skip
def test_networks_that_the_file_cannot_hold_are_refused(
    tmp_path: Path, name: str, sizes: dict[str, Any], said: str
) -> None:
    model, text = _graph(_saved(tmp_path / "model", name, **sizes))
    with pytest.raises(StageError, match=said):
        BUNDLER.check(model, _TARGET, text)


@pytest.mark.parametrize("spoiled", ["words", "another split", "prefix"])
def test_tokenizers_that_the_file_cannot_hold_are_refused(tmp_path: Path, spoiled: str) -> None:
    folder = _saved(tmp_path / "model", "Llama", "qwen2" if spoiled == "another split" else "gpt-2")
    file = folder / "tokenizer.json"
    if spoiled == "words":
        write_tokenizer(folder)
    elif spoiled == "another split":
        file.write_text(file.read_text().replace("\\\\p{N}|", "\\\\p{N}{1,2}|"))
    else:
        file.write_text(file.read_text().replace('"add_prefix_space": false', '"add_prefix_space": true'))
    model, text = _graph(folder)
    with pytest.raises(StageError, match="cannot be stored in a GGUF file"):
        BUNDLER.check(model, _TARGET, text)
