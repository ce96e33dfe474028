"""A detector compressed end to end: its boxes scored against labels of many lengths, gated and compared with the original's."""

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
from compressctl.core.errors import MissingDependencyError, RecipeError
from compressctl.pipeline import run as pipeline_run

RECIPE = """recipe: compressctl/v1
task: detection
decode: {use: yolo, score: 0.5}
model: {source: onnx, path: net.onnx}
data: {source: python, factory: data.py:make, classes: [bright, dark], calibration: 16, validation: 16, test: 16}
stages: [{use: quantize.static, if_slower: keep, gate: {accuracy_drop: 5, kept: 90, added: 10}}]
budget: {kept: 90, added: 10, accuracy_drop: 5}
"""
DATA = """import numpy as np
def make():
    rng = np.random.default_rng(0)
    images, labels = np.zeros((64, 1, 4, 4), np.float32), []
    for image in images:
        cells = rng.permutation(16)[: rng.integers(0, 4)]
        kinds = rng.integers(0, 2, len(cells))
        image.reshape(-1)[cells] = np.where(kinds == 0, 1, -1)
        x, y = cells % 4 * 10.0, cells // 4 * 10.0
        labels.append(np.stack([x, y, x + 10, y + 10, kinds], axis=1).reshape(-1, 5))
    return images, labels
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network that finds bright and dark cells of a grid, each 10 x 10 pixels large: (n, 16, 4 + 2)."""
    centres = np.array([[[x * 10 + 5, y * 10 + 5, 10, 10] for y in range(4) for x in range(4)]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["grid"]),
            helper.make_node("Reshape", ["grid", "rows"], ["flat"]),
            helper.make_node("Transpose", ["flat"], ["logits"], perm=[0, 2, 1]),
            helper.make_node("Relu", ["logits"], ["scores"]),
            helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
            helper.make_node("Concat", ["n", "ones"], ["times"], axis=0),
            helper.make_node("Tile", ["centres", "times"], ["boxes"]),
            helper.make_node("Concat", ["boxes", "scores"], ["found"], axis=2),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", 16, 6])],
        [
            numpy_helper.from_array(np.array([0.9, -0.9], np.float32).reshape(2, 1, 1, 1), "w"),
            numpy_helper.from_array(np.array([0, 2, 16]), "rows"),
            numpy_helper.from_array(np.array([1, 1]), "ones"),
            numpy_helper.from_array(centres, "centres"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def _run(folder: Path) -> Any:
    command = ["apply", str(folder / "recipe.yaml"), "--measure", "quick", "--output", str(folder / "out")]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    return json.loads((folder / "out" / "report.json").read_text())["backends"][0]["compressed"]


def test_boxes_are_scored_by_labels_and_compared(folder: Path) -> None:
    file = _run(folder)
    assert (file["score"]["metric"], file["score"]["reference"]) == ("map", "labels")
    assert file["score"]["value"] == pytest.approx(100)
    assert set(file["score"]["per_class"]) == {"bright", "dark"}
    found = file["decoded"]
    assert found["kept"] == found["reference"] > 0
    assert [entry["name"] for entry in found["classes"]] == ["bright", "dark"]


def test_without_labels_the_original_s_boxes_count(folder: Path) -> None:
    (folder / "data.py").write_text(DATA.replace("images, labels\n", "images, None\n"))
    (folder / "recipe.yaml").write_text(RECIPE)
    score = _run(folder)["score"]
    assert (score["reference"], score["value"]) == ("original", pytest.approx(100))


def test_a_detector_without_a_decoder_is_refused(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("decode: {use: yolo, score: 0.5}\n", ""))
    with pytest.raises(RecipeError, match="nothing says how detection reads results") as refused:
        compressctl.load_recipe(folder / "recipe.yaml")
    assert "detr, finished, ssd, yolo" in str(refused.value)


def test_the_evaluator_that_is_missing_is_named_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_run, "installed_version", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs faster-coco-eval.*\n.*compressctl\[detection\]"):
        pipeline_run.check_installed(compressctl.load_recipe(folder / "recipe.yaml"))
