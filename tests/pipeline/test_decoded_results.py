"""Tasks whose results are decoded: scored, gated, compared with the original's, by decoders and metrics of one's own too."""

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
task: segmentation
model: {source: onnx, path: net.onnx}
data: {source: npz, path: data.npz, labels: labels, calibration: 16, validation: 16, test: 16}
"""
OWN = "import numpy as np\ndef read(outputs): return [scores.argmax(0) for scores in outputs['scores']]\ndef right(outputs, labels): return float(np.mean([np.mean(a == b) for a, b in zip(outputs, labels)]))\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network whose mask is the channel that is largest, on images of channels that differ clearly."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.3, (64, 3, 12, 12)).astype(np.float32)
    labels = rng.integers(0, 3, (64, 12, 12))
    np.put_along_axis(images, labels[:, None], 2, axis=1)
    np.savez(tmp_path / "data.npz", x=images, labels=labels)
    np.savez(tmp_path / "bare.npz", x=images)
    weight = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["scores"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx"
    )
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def _run(folder: Path, text: str) -> tuple[int, Any]:
    (folder / "recipe.yaml").write_text(text)
    found = CliRunner().invoke(
        app, ["apply", str(folder / "recipe.yaml"), "--measure", "quick", "--output", str(folder / "out")]
    )
    assert found.exit_code in (0, 1), found.output
    return found.exit_code, json.loads((folder / "out" / "report.json").read_text())["backends"][0]["compressed"]


STAGE = "stages: [{use: quantize.static, if_slower: keep, gate: {accuracy_drop: 5, kept: 90}}]\nbudget: {kept: 90, added: 10, worst_class_drop: 10}\n"


def test_masks_are_scored_and_compared(folder: Path) -> None:
    code, file = _run(folder, RECIPE + STAGE)
    assert code == 0
    assert file["score"]["metric"] == "mean_iou"
    name, drop = file["change"]["worst_class"]
    assert name in file["score"]["per_class"]
    assert drop < 10
    assert set(file["score"]["per_class"]) == {"class 0", "class 1", "class 2"}
    assert file["decoded"]["reference"] == 16 * 12 * 12
    assert file["decoded"]["kept"] >= 0.9 * file["decoded"]["reference"]


def test_the_original_s_results_stand_for_labels(folder: Path) -> None:
    code, file = _run(folder, RECIPE.replace("data.npz, labels: labels", "bare.npz") + STAGE)
    assert code == 0
    assert file["score"]["reference"] == "original"
    assert file["change"]["drop"] == pytest.approx(100 - file["score"]["value"])


def test_a_budget_on_what_is_kept_is_missed(folder: Path) -> None:
    noisy = folder / "data.npz"
    with np.load(noisy) as data:
        near = {name: data[name] for name in data}
    near["x"] = near["x"] * 0 + np.random.default_rng(1).normal(1, 0.001, near["x"].shape).astype(np.float32)
    np.savez(noisy, **near)
    code, file = _run(folder, RECIPE + "stages: [{use: quantize.static, if_slower: keep}]\nbudget: {kept: 99.9}\n")
    assert code == 1
    assert file["decoded"]["kept"] < 0.999 * file["decoded"]["reference"]


def test_a_decoder_and_a_metric_of_one_s_own(folder: Path) -> None:
    own = RECIPE.replace("task: segmentation", "task: custom\nmetric: own.py:right\ndecode: own.py:read")
    assert [path for path, _ in compressctl.plan(_written(folder, own)).code] == ["metric.function", "decode.function"]
    code, file = _run(folder, own + "stages: [{use: quantize.static, if_slower: keep, gate: {accuracy_drop: 5}}]\n")
    assert code == 0
    assert file["score"]["metric"] == "right"
    assert 0.9 < file["score"]["value"] <= 1


def test_what_one_s_own_functions_raise_is_said_with_their_name(folder: Path) -> None:
    (folder / "own.py").write_text(OWN.replace("return [", "return []; ["))
    own = RECIPE.replace("task: segmentation", "task: custom\nmetric: own.py:right\ndecode: own.py:read")
    found = CliRunner().invoke(app, ["apply", str(_written(folder, own))])
    assert found.exit_code == 2
    assert "own.py:read gave 0 results for" in found.stderr


def _written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("task: classification\ndecode: argmax", "argmax does not fit the task classification"),
        ("task: segmentation\ndecode: argmux", "unknown decoder"),
        ("task: segmentation\ndecode: {output: y}", "names a decoder"),
        ("task: custom\nmetric: own.py:accuracy", "is the name of a registered metric"),
        ("task: classification\nbudget: {kept: 90}", "nothing that the task classification decodes"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, line: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        compressctl.load_recipe(_written(folder, RECIPE.replace("task: segmentation", line)))


@pytest.mark.parametrize(
    "body",
    [
        "['x' for _ in outputs['scores']]",
        "[s.max(0) * np.nan for s in outputs['scores']]",
        "[np.full((12, 12), 0.37) for _ in outputs['scores']]",
    ],
)
def test_results_that_are_not_in_the_task_s_form_are_refused_before_any_stage(folder: Path, body: str) -> None:
    (folder / "own.py").write_text(f"import numpy as np\ndef read(outputs): return {body}\n")
    own = RECIPE.replace("task: segmentation", "task: segmentation\ndecode: own.py:read")
    found = CliRunner().invoke(
        app, ["plan", "--check", str(_written(folder, own + "stages: [{use: quantize.static}]\n"))]
    )
    assert found.exit_code == 2
    assert "pixels are compared: let `decode` return them in the task's form" in found.stderr


def test_a_gate_on_a_metric_that_is_no_number_says_what_it_is(folder: Path) -> None:
    (folder / "own.py").write_text("def right(outputs, labels): return float('nan')\n")
    own = RECIPE.replace("task: segmentation", "task: segmentation\nmetric: own.py:right")
    gated = "stages: [{use: prune.unstructured, sparsity: 0.5, gate: {accuracy_drop: 5}}]\n"
    found = CliRunner().invoke(app, ["apply", str(_written(folder, own + gated)), "--output", str(folder / "out")])
    assert found.exit_code == 1
    assert "right is nan for the original and nan for the stage's model" in " ".join(found.stderr.split())


def test_tensors_of_a_decoder_are_taken_as_arrays(folder: Path) -> None:
    body = "[torch.tensor(scores).argmax(0) for scores in outputs['scores']]"
    (folder / "own.py").write_text(f"import torch\ndef read(outputs): return {body}\n")
    own = RECIPE.replace("task: segmentation", "task: segmentation\ndecode: own.py:read")
    found = CliRunner().invoke(
        app, ["plan", "--check", str(_written(folder, own + "stages: [{use: quantize.static}]\n"))]
    )
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize(
    ("box", "code"),
    [("[[1, 1, 9, 9, 0.9, 0]]", 0), ("[]", 0), ("[[9, 9, 1, 1, 0.9, 0]]", 2)],
    ids=["a box", "none", "corners in turn"],
)
def test_boxes_that_do_not_overlap_themselves_are_refused_before_any_stage(folder: Path, box: str, code: int) -> None:
    (folder / "own.py").write_text(f"def read(outputs): return [{box} for _ in outputs['scores']]\n")
    own = RECIPE.replace("task: segmentation", "task: detection\ndecode: own.py:read").replace(
        "labels: labels", "labels: null"
    )
    found = CliRunner().invoke(
        app, ["plan", "--check", str(_written(folder, own + "stages: [{use: quantize.static}]\n"))]
    )
    assert found.exit_code == code, found.output
    assert ("boxes is found again in the very same results" in " ".join(found.stderr.split())) == (code == 2)
