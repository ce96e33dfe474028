"""Networks with several heads: each judged by its own metric, gated, bounded and trained by its own labels."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import compressctl
from compressctl.cli.main import app
from compressctl.core.errors import RecipeError

pytest.importorskip("torch")

NET = """
import torch
from torch import nn

class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.species, self.age = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, x):
        features = self.body(x)
        return {"logits": self.species(features), "age": self.age(features)}

def make():
    torch.manual_seed(0)
    return TwoHeads()
"""
RECIPE = """recipe: compressctl/v1
heads:
  species: {output: logits, task: classification}
  age: {task: regression, metric: rmse, weight: 0.5}
model: {source: python, factory: net.py:make, input_shape: [8]}
data: {source: npz, path: data.npz, inputs: x, labels: {species: kind, age: years}, calibration: 32, validation: 64, test: 64}
"""
TRAIN = "{use: finetune, epochs: 20, batch_size: 16, learning_rate: 0.03}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 8)).astype(np.float32)
    years = (x[:, 0] + 0.5 * x[:, 1]).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, kind=x[:, 2:5].argmax(1), years=years)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def _run(folder: Path, text: str) -> tuple[int, dict[str, Any]]:
    (folder / "recipe.yaml").write_text(text)
    found = CliRunner().invoke(
        app, ["apply", str(folder / "recipe.yaml"), "--measure", "quick", "--output", str(folder / "out")]
    )
    assert found.exit_code in (0, 1), found.output
    return found.exit_code, json.loads((folder / "out" / "report.json").read_text())


def _heads(report: dict[str, Any]) -> dict[str, Any]:
    return {head["name"]: head for head in report["backends"][0]["compressed"]["heads"]}


def test_each_head_learns_its_own_labels_and_is_scored_by_its_own_metric(folder: Path) -> None:
    int8 = "{use: quantize.static, if_slower: keep, gate: {accuracy_drop: {species: 5, age: 0.1}}}"
    budget = "budget: {accuracy_drop: {species: 5, age: 0.1}}\n"
    code, report = _run(folder, RECIPE + f"stages: [{TRAIN}, {int8}]\n{budget}")
    heads = _heads(report)
    assert code == 0
    assert heads["species"]["score"]["metric"] == "accuracy"
    assert heads["species"]["score"]["value"] > 90
    assert heads["age"]["score"]["metric"] == "rmse"
    assert heads["age"]["score"]["value"] < 0.3
    assert heads["species"]["behaviour"]["churn"] >= 0
    names = [check["name"] for check in report["budget"]]
    assert names == ["accuracy_drop of species", "accuracy_drop of age"]


def test_a_head_that_is_forgotten_misses_the_budget(folder: Path) -> None:
    """Trained on one head's labels alone, the other is lost."""
    (folder / "spoil.py").write_text("def forget(outputs, labels): return (outputs * 0).sum()\n")
    spoiled = RECIPE.replace("metric: rmse, weight: 0.5", "metric: rmse, loss: spoil.py:drift, weight: 1.0")
    (folder / "spoil.py").write_text("def drift(outputs, labels): return (outputs - 30).pow(2).mean() / 100\n")
    code, report = _run(folder, spoiled + f"stages: [{TRAIN}]\nbudget: {{accuracy_drop: 1}}\n")
    assert code == 1
    held = {check["name"]: check["holds"] for check in report["budget"]}
    assert held == {"accuracy_drop of species": True, "accuracy_drop of age": False}


def test_a_worse_head_fails_its_gate(folder: Path) -> None:
    _run(folder, RECIPE + f"stages: [{TRAIN}]\n")
    (folder / "out" / "artifacts" / "torch" / "model.safetensors").rename(folder / "trained.safetensors")
    crude = "{use: quantize.weights, bits: 2, group_size: 16, if_slower: keep, gate: {accuracy_drop: {age: 0.001}, otherwise: undo}}"
    trained = RECIPE.replace("factory: net.py:make,", "factory: net.py:make, weights: trained.safetensors,")
    _, report = _run(folder, trained + f"stages: [{crude}]\n")
    assert "age: rmse rose by" in report["stages"][-1]["facts"]["skipped"]


def test_a_teacher_teaches_both_heads(folder: Path) -> None:
    taught = "{use: distill.logits, teacher: original, epochs: 1, learning_rate: 0.001}"
    _, report = _run(folder, RECIPE + f"stages: [{TRAIN}, {taught}]\n")
    assert _heads(report)["species"]["score"]["value"] > 30


def test_evaluate_scores_every_head(folder: Path) -> None:
    _run(folder, RECIPE + f"stages: [{TRAIN}]\n")
    file = next((folder / "out").rglob("*.onnx"))
    found = CliRunner().invoke(app, ["evaluate", str(file), "--data", str(folder / "recipe.yaml")])
    assert found.exit_code == 0, found.output
    assert [line.split(" ")[:2] for line in found.stdout.splitlines()] == [["species:", "accuracy"], ["age:", "rmse"]]


def test_the_report_names_every_head(folder: Path) -> None:
    _run(folder, RECIPE + f"stages: [{TRAIN}]\n")
    for name in ("report.md", "report.html"):
        text = (folder / "out" / name).read_text()
        assert "species: accuracy" in text
        assert "age: rmse" in text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("heads:", "task: regression\nheads:", "each of `heads` has a task of its own"),
        ("metric: rmse", "metric: accuracy", "accuracy does not fit the task regression"),
        ("weight: 0.5", "wight: 0.5", "unknown key"),
        ("task: regression, metric: rmse", "task: regresion", "unknown task"),
        ("model:", "budget: {accuracy_drop: {agee: 1}}\nmodel:", "there is no head 'agee'"),
        ("model:", "budget: {worst_class_drop: 1}\nmodel:", "not several heads"),
        ("age: {task: regression, metric: rmse, weight: 0.5}", "age: 5", "a head is a mapping"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(folder: Path, old: str, new: str, words: str) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError, match=words):
        compressctl.load_recipe(folder / "recipe.yaml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("output: logits", "output: scores", "the model has no output 'scores'"),
        ("species: kind, age: years", "species: kind", "no labels for the head age"),
        ("labels: {species: kind, age: years}", "labels: kind", "no labels for the head species"),
    ],
)
def test_heads_that_nothing_fits_are_refused_before_work(folder: Path, old: str, new: str, words: str) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace(old, new) + f"stages: [{TRAIN}]\n")
    found = CliRunner().invoke(app, ["apply", str(folder / "recipe.yaml")])
    assert found.exit_code == 2
    assert words in found.stderr


@pytest.mark.parametrize(
    ("head", "value", "words"),
    [
        ("kind", 3, "label 3 of sample 7 .* is no class: the model tells 3 classes apart"),
        ("kind", -1, "'kind' holds a negative class, -1"),
        ("years", float("nan"), "'years' holds labels that are not finite"),
    ],
)
def test_labels_that_are_none_of_a_heads_are_refused_before_work(
    head: str, value: float, words: str, folder: Path
) -> None:
    arrays = dict(np.load(folder / "data.npz"))
    arrays[head][7] = value
    np.savez(folder / "data.npz", **{name: array[:200] for name, array in arrays.items()})
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("test: 64", "test: 64") + f"stages: [{TRAIN}]\n")
    found = CliRunner().invoke(app, ["plan", str(recipe), "--check"])
    assert found.exit_code == 2
    assert re.search(words, found.stderr), found.stderr
