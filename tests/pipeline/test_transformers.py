"""Folders of transformers through whole runs: the exported file is what the report says, and transformers opens what was trained."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.core.feeds import samples_at_once
from compressctl.core.model import Signature, TensorSpec

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.tiny_transformers import WORDS, saved  # noqa: E402


def _table(path: Path) -> None:
    """Texts of two to nine words, whose class is whether they hold "good"."""
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "kind"])
        for _ in range(160):
            words = random.choice(WORDS, random.integers(2, 10))
            table.writerow([" ".join(words), int("good" in words)])


def _run(folder: Path, recipe: str) -> dict:
    (folder / "r.yaml").write_text(recipe)
    arguments = ["apply", str(folder / "r.yaml"), "--output", str(folder / "run"), "--measure", "untimed"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report: dict = json.loads((folder / "run" / "report.json").read_text())
    return report


RUNNING_TEXT = """
recipe: compressctl/v1
name: text
task: {task}
model: {{source: huggingface, path: model}}
data: {{source: text, files: [text.txt], tokenizer: {tokenizer}, window: {window}, train: 2, validation: 2, test: 2, calibration: 2}}
stages: [{{use: quantize.weights, bits: 8}}]
"""


@pytest.mark.parametrize(
    ("name", "task", "window", "said"),
    [
        ("bert-masked", "language-model", 16, "BertForMaskedLM is a model of masked tokens"),
        ("gpt2", "language-model", 128, "data.window is 128 tokens, and the model's table of positions has 64 entries"),
        ("llama", "classification", 16, "deals windows of running text, which have no classes"),
    ],
)
def test_what_no_perplexity_could_be_of_is_refused_before_anything_is_exported(
    tmp_path: Path, name: str, task: str, window: int, said: str
) -> None:
    saved(name, tmp_path / "model")
    (tmp_path / "text.txt").write_text(" ".join(WORDS) * 400)
    (tmp_path / "r.yaml").write_text(RUNNING_TEXT.format(task=task, tokenizer="model", window=window))
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "r.yaml"), "--check"])
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())


def test_texts_that_another_tokenizer_reads_are_warned_of(tmp_path: Path) -> None:
    saved("llama", tmp_path / "model")
    saved("llama", tmp_path / "other")
    (tmp_path / "text.txt").write_text(" ".join(WORDS) * 400)
    read = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(read, indent=3))
    for tokenizer in ("model", "other"):
        (tmp_path / "r.yaml").write_text(RUNNING_TEXT.format(task="language-model", tokenizer=tokenizer, window=16))
        done = CliRunner().invoke(app, ["plan", str(tmp_path / "r.yaml"), "--check"])
        assert done.exit_code == 0, done.output
        is_said = "which is not the tokenizer of the model's folder" in " ".join(done.output.split())
        assert is_said == (tokenizer == "other")


CLASSIFIER = """
recipe: compressctl/v1
name: texts
task: classification
model: {source: huggingface, path: model}
data:
  source: csv
  path: texts.csv
  label: kind
  classes: [other, good, unused]
  tokenize: {tokenizer: model, texts: [text]}
  calibration: 16
  validation: 16
stages:
  - {use: prune.layers, remove: 1}
  - {use: finetune, epochs: 1, batch_size: 16}
  - {use: quantize.dynamic, if_slower: keep}
"""


def test_a_classifier_of_texts_goes_through_pruning_training_and_8_bits(tmp_path):
    saved("bert", tmp_path / "model")
    _table(tmp_path / "texts.csv")
    report = _run(tmp_path, CLASSIFIER)

    (backend,) = report["backends"]
    file = tmp_path / "run" / "artifacts" / "onnxruntime" / "model.onnx"
    assert file.stat().st_size == backend["compressed"]["total_bytes"] < backend["baseline"]["total_bytes"]
    shape = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in shape] == ["batch", "sequence"]
    assert _accuracy_by_hand(file, tmp_path) == pytest.approx(backend["compressed"]["score"]["value"], abs=1e-6)

    trained = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "run" / "artifacts" / "transformers"
    )
    assert len(trained.bert.encoder.layer) == 1


def _accuracy_by_hand(file: Path, folder: Path) -> float:
    """Text by text, through the runtime alone."""
    from compressctl.recipe.loader import load
    from compressctl.sources.load import load_dataset

    recipe = load(folder / "r.yaml")
    assert recipe.data is not None
    session = onnxruntime.InferenceSession(file)
    right = []
    for batch in load_dataset(recipe.data, recipe.base, recipe.seed).split("test").batches(1):
        (logits,) = session.run(None, dict(batch.inputs))
        right.append(int(logits.argmax()) == batch.labels[0])
    return 100 * float(np.mean(right))


LANGUAGE = """
recipe: compressctl/v1
name: language
task: language-model
model: {source: huggingface, path: model}
data: {source: text, files: [text.txt], tokenizer: model, window: 16, calibration: 8, validation: 8}
stages:
  - {use: prune.heads, keep: 0.5}
  - {use: distill.logits, epochs: 1, batch_size: 16}
  - {use: quantize.weights, bits: 4, group_size: 16, method: gptq}
"""


def test_a_language_model_with_grouped_queries_goes_through_pruning_distillation_and_4_bits(tmp_path):
    saved("llama", tmp_path / "model")
    random = np.random.default_rng(0)
    (tmp_path / "text.txt").write_text(" ".join(random.choice(WORDS, 2000)))
    report = _run(tmp_path, LANGUAGE)

    heads = report["stages"][0]["facts"]["heads"]
    assert heads == {f"model.layers.{n}.self_attn": [4, 2] for n in (0, 1)}
    (backend,) = report["backends"]
    assert backend["compressed"]["total_bytes"] < backend["baseline"]["total_bytes"]
    # Words at random: nothing can be foretold better than by their number.
    assert 10 < backend["compressed"]["score"]["value"] < 100
    config = json.loads((tmp_path / "run" / "artifacts" / "transformers" / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (2, 1)


TOKENS = """
recipe: compressctl/v1
name: tokens
task: token-classification
model: {source: huggingface, path: model}
data:
  source: jsonl
  path: words.jsonl
  label: tags
  tokenize: {tokenizer: model, texts: [words]}
  calibration: 8
  validation: 300
  test: 24
stages:
  - {use: distill.logits, epochs: 1, batch_size: 8}
  - {use: quantize.dynamic, if_slower: keep}
"""


def test_labels_of_tokens_may_be_of_other_lengths_in_other_batches(tmp_path):
    """Each text by itself where ranges are found while the file runs, 256 at a time before and after training: each padded to its own longest."""
    saved("bert-tokens", tmp_path / "model")
    random = np.random.default_rng(0)
    # More texts of three words than a batch holds come first, so that batches differ in length.
    lengths = [*[3] * 300, *random.integers(2, 9, 80)]
    with (tmp_path / "words.jsonl").open("w") as file:
        for length in lengths:
            words = random.choice(WORDS, length)
            file.write(json.dumps({"words": list(words), "tags": [int(word == "good") for word in words]}) + "\n")
    report = _run(tmp_path, TOKENS)
    (backend,) = report["backends"]
    assert backend["compressed"]["score"]["metric"] == "token_f1"
    assert backend["compressed"]["score"]["samples"] == 24
    assert 0 <= report["stages"][0]["facts"]["after"]["agreement"] <= 100


def test_windows_beyond_the_positions_that_the_model_knows_are_named(tmp_path):
    saved("llama", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text()) | {"max_position_embeddings": 8}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "text.txt").write_text(" ".join(np.random.default_rng(0).choice(WORDS, 2000)))
    recipe = LANGUAGE.replace(
        "  - {use: prune.heads, keep: 0.5}\n  - {use: distill.logits, epochs: 1, batch_size: 16}\n", ""
    )
    report = _run(tmp_path, recipe)
    assert any(
        "data.window is 16 tokens, and the model's config knows 8 positions" in said for said in report["warnings"]
    )


def test_texts_are_as_large_as_what_is_said_of_each_token() -> None:
    """By which as many samples are compared when a network is exported as memory holds: one text of a large vocabulary here."""
    ids = TensorSpec("ids", "int64", ("batch", "sequence"))
    signature = Signature((ids,), (TensorSpec("logits", "float32", ("batch", "sequence", 32000)),))
    assert samples_at_once(signature, {"ids": np.zeros((2, 512), np.int64)}, 2) == 1
    assert samples_at_once(signature, {"ids": np.zeros((2, 64), np.int64)}, 2) == (64 << 20) // (64 * 32000 * 4)
