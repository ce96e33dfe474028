"""A file that works together with another: compressed by the calls that a function makes of it, gated and scored by the end result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import compressctl
from compressctl.cli.main import app
from compressctl.core.errors import RecipeError

RECIPE = """recipe: compressctl/v1
task: recognition
model: {source: onnx, path: second.onnx}
pipeline: {function: both.py:read, role: second, models: {first: {source: onnx, path: first.onnx}}}
data: {source: npz, path: data.npz, inputs: x, labels: texts, calibration: 16, validation: 16, test: 16}
stages: [{use: quantize.static, if_slower: keep, gate: {accuracy_drop: 5, kept: 80}}]
"""
BOTH = """
def read(models, inputs):
    texts = []
    for row in inputs["input"]:
        hidden = models["first"]({"x": row[None]})["y"]
        parts = [models["second"]({"x": part})["y"] for part in (hidden[:, :6], hidden[:, 6:])]
        texts.append("".join(" abc"[step] for part in parts for step in part[0].argmax(1)).replace(" ", ""))
    return texts
"""


def product(path: Path, weight: np.ndarray) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "steps", 4]) for name in ("x", "y")]
    constant = numpy_helper.from_array(weight.astype(np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The first file turns scores, the second turns them back."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    product(tmp_path / "first.onnx", turn)
    product(tmp_path / "second.onnx", turn.T)
    steps = rng.integers(0, 4, (64, 12))
    texts = ["".join(" abc"[step] for step in row).replace(" ", "") for row in steps]
    np.savez(
        tmp_path / "data.npz",
        x=(np.eye(4)[steps] * 3 + rng.normal(0, 0.2, (64, 12, 4))).astype(np.float32),
        texts=texts,
    )
    (tmp_path / "both.py").write_text(BOTH)
    return tmp_path


def apply(folder: Path, text: str) -> tuple[int, str, Any]:
    (folder / "recipe.yaml").write_text(text)
    found = CliRunner().invoke(
        app, ["apply", str(folder / "recipe.yaml"), "--measure", "quick", "--output", str(folder / "out")]
    )
    path = folder / "out" / "report.json"
    return found.exit_code, found.output, json.loads(path.read_text()) if path.exists() else None


def test_the_end_result_is_scored_and_the_file_s_own_calls_are_compared(folder: Path) -> None:
    code, output, report = apply(folder, RECIPE + "budget: {kept: 80, accuracy_drop: 5}\n")
    assert code == 0, output
    file = report["backends"][0]["compressed"]
    assert (file["score"]["metric"], file["score"]["samples"]) == ("cer", 16)
    assert file["score"]["value"] < 5
    assert (file["decoded"]["unit"], file["decoded"]["samples"]) == ("strings", 16)
    assert file["fidelity"]["samples"] == 32  # two calls for each sample
    assert file["latency"]["shapes"] == {"x": [1, 6, 4]}
    assert report["stages"][0]["facts"]["calibration_samples"] == 32


def test_a_gate_on_the_end_result_stops_a_file_that_ruins_it(folder: Path) -> None:
    """Without the second half of the numbers nothing that is read stays."""
    ruin = "{use: prune.unstructured, sparsity: 0.9, if_slower: keep, gate: {accuracy_drop: 5, otherwise: stop}}"
    code, output, _ = apply(folder, RECIPE[: RECIPE.index("stages:")] + f"stages: [{ruin}]\n")
    assert code in (1, 4), output
    assert "lost" in output


def test_without_labels_the_original_s_end_results_stand_for_them(folder: Path) -> None:
    code, output, report = apply(folder, RECIPE.replace("labels: texts", "labels: null"))
    assert code == 0, output
    assert report["backends"][0]["compressed"]["score"]["reference"] == "original"


def test_function_and_other_files_are_listed_and_decide_what_is_taken_from_the_cache(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE)

    def key() -> str | None:
        return next(step.key for step in compressctl.plan(folder / "recipe.yaml").steps if step.kind == "stage")

    assert ("pipeline.function", "both.py:read") in compressctl.plan(folder / "recipe.yaml").code
    keys = [key()]
    (folder / "both.py").write_text(BOTH + "# changed\n")
    keys.append(key())
    product(folder / "first.onnx", np.eye(4))
    keys.append(key())
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return []", "gave 0 results for"),
        ("raise KeyError('x')", "both.py:read failed on"),
        ("return [''] * len(inputs['input'])", "never calls 'second'"),
    ],
)
def test_what_the_function_does_wrong_is_said(folder: Path, body: str, words: str) -> None:
    (folder / "both.py").write_text(f"def read(models, inputs):\n    {body}\n")
    code, output, _ = apply(folder, RECIPE)
    assert code == 2
    assert words in output


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("role: second, ", "", "role"),
        ("models: {first:", "models: {second:", "is what the function calls `model` by"),
        ("path: first.onnx}", "pfad: first.onnx}", "unknown key"),
        ("{source: onnx, path: first.onnx}", "{path: first.onnx}", "`source` is missing"),
        ("task: recognition", "task: recognition\ndecode: {use: ctc, alphabet: [a]}", "nothing decodes"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, old: str, new: str, words: str) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError, match=words):
        compressctl.load_recipe(folder / "recipe.yaml")


def test_the_lock_loads_to_the_same_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE)
    recipe = compressctl.load_recipe(folder / "recipe.yaml")
    (folder / "lock.yaml").write_text(json.dumps(recipe.resolved))
    assert compressctl.load_recipe(folder / "lock.yaml").pipeline == recipe.pipeline


SET = """recipe: compressctl/v1
task: recognition
pipeline:
  function: both.py:read
  models: {first: {source: onnx, path: first.onnx}, second: {source: onnx, path: second.onnx}}
  stages:
    first: [{use: quantize.static, if_slower: keep, gate: {accuracy_drop: 5}}]
    second: [{use: quantize.static, if_slower: keep, gate: {accuracy_drop: 5}}]
data: {source: npz, path: data.npz, inputs: x, labels: texts, calibration: 16, validation: 16, test: 16}
budget: {kept: 80, accuracy_drop: 5}
"""


def test_one_recipe_compresses_all_files_and_reports_the_end_result_of_all(folder: Path) -> None:
    code, output, _ = apply(folder, SET)
    assert code == 0, output
    first, second = (json.loads((folder / "out" / name / "report.json").read_text()) for name in ("first", "second"))
    for report in (first, second):
        assert report["backends"][0]["baseline"]["score"]["value"] == 0  # of original files alone
    text = (folder / "out" / "report.md").read_text()
    score = second["backends"][0]["compressed"]["score"]["value"]
    assert "# recipe: first, second" in text
    assert f"on 16 test samples: cer 0.00 %, then {score:.2f} %" in text
    assert [line.split(" | ")[0] for line in text.splitlines()[-3:]] == ["| first", "| second", "| all"]


def test_what_the_first_file_loses_counts_where_the_second_is_judged(folder: Path) -> None:
    """A first file that gives nothing but zeros stands for one that was ruined."""
    product(folder / "ruined.onnx", np.zeros((4, 4)))
    spoiled = RECIPE.replace("models:", "compressed: {first: ruined.onnx}, models:")
    code, output, _ = apply(folder, spoiled)
    assert code in (1, 4), output
    assert "lost" in output


def test_a_file_of_the_set_is_chosen_where_one_is_asked_for(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(SET)
    with pytest.raises(RecipeError, match="compresses first, second one after the other"):
        compressctl.load_recipe(folder / "recipe.yaml")
    chosen = compressctl.load_recipe(folder / "recipe.yaml", overrides={"pipeline.role": "second"})
    assert chosen.pipeline is not None
    assert list(chosen.pipeline.models) == ["first"]
    assert chosen.model.params.path == "second.onnx"  # type: ignore[attr-defined]
    assert CliRunner().invoke(app, ["validate", str(folder / "recipe.yaml")]).output.strip().endswith("valid, 2 stages")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    second: [{", "    third: [{", "third is none of `pipeline.models`"),
        ("task: recognition", "task: recognition\nstages: []", "`stages` has no place here"),
        ("  stages:", "  role: [first]\n  stages:", "has no stages"),
        ("first", "../first", "a folder is called"),
        ("  stages:\n", "  stages: []\n  other:\n", "names no file"),
        ("use: quantize.static", "use: quantise.static", "quantise.static"),
    ],
)
def test_what_a_set_says_wrong_is_shown_at_its_line(folder: Path, old: str, new: str, words: str) -> None:
    (folder / "recipe.yaml").write_text(SET.replace(old, new))
    found = CliRunner().invoke(app, ["validate", str(folder / "recipe.yaml")])
    assert found.exit_code == 2
    assert words in found.output
    assert "recipe.yaml:" in found.output
