"""A sentence encoder that learns scores of pairs, in every technique that trains."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.core.events import Events
from compressctl.core.source import SplitSizes
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.sources.params import HuggingFaceParams, SentencePairsParams
from compressctl.tasks.metrics import spearman

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from support.tiny_transformers import as_sentence_encoder, saved  # noqa: E402

from compressctl.sources import sentence_pairs  # noqa: E402
from compressctl.sources.huggingface.network import load  # noqa: E402
from compressctl.techniques.finetune import finetune  # noqa: E402
from compressctl.techniques.finetune.params import FinetuneParams  # noqa: E402
from compressctl.training.data import tensor_batches  # noqa: E402
from compressctl.training.objective import first_output  # noqa: E402

FILLERS = ("the", "cat", "dog", "sat", "ran", "on", "a", "mat")
GOOD, BAD = ("good", "film", "was"), ("bad", "it", "very")
RECIPE = """recipe: compressctl/v1
task: embedding
model: {source: huggingface, path: encoder}
data:
  source: sentence_pairs
  path: pairs.tsv
  columns: {first: 0, second: 1, label: 2}
  tokenizer: encoder
  padding: longest
  calibration: 16
  validation: 24
  test: 24
"""
BRISK = "epochs: 4, batch_size: 33, optimizer: adamw, learning_rate: 0.003"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts of a few good and bad words among others: pairs are alike as far as they are equally good, on a scale of 0 to 4."""
    as_sentence_encoder(saved("bert-base", tmp_path / "encoder"), {"pooling_mode_mean_tokens": True})
    rng = np.random.default_rng(0)

    def text(good: int) -> str:
        words = [*rng.choice(GOOD, good), *rng.choice(BAD, 4 - good), *rng.choice(FILLERS, rng.integers(4, 8))]
        return " ".join(rng.permutation(words))

    levels = rng.integers(0, 5, (160, 2))
    rows = [f"{text(one)}\t{text(other)}\t{4 - abs(one - other)}\n" for one, other in levels]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    return tmp_path


def _run(folder: Path, text: str) -> Any:
    (folder / "recipe.yaml").write_text(text)
    return CliRunner().invoke(
        app, ["apply", str(folder / "recipe.yaml"), "--measure", "quick", "--output", str(folder / "out")]
    )


def _scores(folder: Path, text: str) -> tuple[float, float]:
    found = _run(folder, text)
    assert found.exit_code == 0, found.output
    part = json.loads((folder / "out" / "report.json").read_text())["backends"][0]
    return part["baseline"]["score"]["value"], part["compressed"]["score"]["value"]


@pytest.mark.parametrize("loss", [None, "cosent", "cosine"])
def test_cosines_of_training_pairs_come_into_the_order_of_their_scores(folder: Path, loss: Any) -> None:
    columns = {"first": 0, "second": 1, "label": 2}
    params = SentencePairsParams.model_validate(
        {"path": "pairs.tsv", "columns": columns, "tokenizer": "encoder", "padding": "longest"}
    )
    data = sentence_pairs.load(params, SplitSizes(validation=24, calibration=16, test=24), folder, 0)
    model = load(HuggingFaceParams(path="encoder"), folder, 0)
    run = RunContext(0, Events(), folder, Target("onnxruntime"), data, task="embedding", loss=loss)
    tuned = finetune.apply(
        model, FinetuneParams(epochs=4, batch_size=33, optimizer="adamw", learning_rate=0.003), run
    ).model

    def on_training_pairs(network) -> float:
        outputs, labels = [], []
        with torch.no_grad():
            for batch in tensor_batches(data.split("train"), model.signature, 64):
                outputs.append(first_output(network, batch).numpy())
                labels.append(batch.labels.numpy())
        return spearman(np.concatenate(outputs), np.concatenate(labels))

    before, after = on_training_pairs(model.body), on_training_pairs(tuned.body)
    assert after > 80
    assert after > before + 20


@pytest.mark.parametrize(
    "stage",
    [
        f"{{use: finetune, {BRISK}}}",
        f"{{use: distill.logits, teacher: original, teacher_weight: 0.01, label_weight: 1, {BRISK}}}",
        f"{{use: quantize.qat, if_slower: keep, {BRISK}}}",
    ],
    ids=["finetune", "distill.logits", "qat"],
)
def test_pairs_that_nobody_trained_on_come_into_order_too(folder: Path, stage: str) -> None:
    before, after = _scores(folder, RECIPE + f"stages: [{stage}]\n")
    assert after > 75
    assert after > before + 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [{use: finetune, batch_size: 1}]\n", "batch_size: 1 is less than a whole tuple"),
        ("stages: [{use: finetune, batch_size: 3}]\n", "batch_size: 3 holds a single pair"),
        ("loss: cosent\nstages: [{use: finetune, batch_size: 2}]\n", "batch_size: 2 holds a single pair"),
    ],
)
def test_batches_without_two_pairs_are_refused_by_the_recipe_alone(folder: Path, text: str, message: str) -> None:
    (folder / "r.yaml").write_text(RECIPE + text)
    found = CliRunner().invoke(app, ["validate", str(folder / "r.yaml")])
    assert found.exit_code == 2
    said = " ".join(found.stderr.split())
    assert message in said
    assert "stages[0].batch_size" in said


def test_the_cosine_loss_and_a_teacher_alone_take_single_pairs(folder: Path) -> None:
    stages = (
        "{use: finetune, batch_size: 2, epochs: 1}, {use: distill.logits, label_weight: 0, batch_size: 2, epochs: 1}"
    )
    assert _run(folder, RECIPE + f"loss: cosine\nstages: [{stages}]\n").exit_code == 0


def test_a_loss_of_pairs_on_samples_that_stand_alone_is_refused_before_work(folder: Path) -> None:
    lines = [json.dumps({"text": f"good {word}", "score": 0.5}) for word in FILLERS * 4]
    (folder / "alone.jsonl").write_text("\n".join(lines))
    data = "data: {source: jsonl, path: alone.jsonl, label: score, tokenize: {tokenizer: encoder, texts: [text]}}\n"
    head = RECIPE.partition("data:")[0]
    found = _run(folder, head + data + "loss: cosent\nstages: [{use: finetune, epochs: 1}]\n")
    assert found.exit_code == 2
    assert "samples do not come in pairs" in found.stderr
    found = _run(folder, head + data + "stages: [{use: finetune, epochs: 1}]\n")
    assert found.exit_code == 2
    assert "trained on scores of pairs" in found.stderr
