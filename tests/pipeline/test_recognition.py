"""Text that is read off scores: scored by character error, gated, compared with what the original reads."""

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
decode: {use: ctc, alphabet: letters.txt}
model: {source: onnx, path: net.onnx}
data: {source: npz, path: data.npz, inputs: x, labels: texts, calibration: 16, validation: 16, test: 16}
stages: [{use: quantize.static, if_slower: keep, gate: {accuracy_drop: 5}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network that gives the scores that it is given, of twelve steps and a blank and three letters."""
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 4, (64, 12))
    scores = (np.eye(4)[steps] * 4 + rng.normal(0, 0.3, (64, 12, 4))).astype(np.float32)
    texts = ["".join(" abc"[b] for a, b in zip([0, *row[:-1]], row, strict=True) if b and a != b) for row in steps]
    np.savez(tmp_path / "data.npz", x=scores, texts=np.array(texts))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 12, 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx"
    )
    (tmp_path / "letters.txt").write_text("a\nb\nc\n")
    return tmp_path


def run(folder: Path, text: str) -> tuple[int, Any]:
    (folder / "recipe.yaml").write_text(text)
    found = CliRunner().invoke(
        app, ["apply", str(folder / "recipe.yaml"), "--measure", "quick", "--output", str(folder / "out")]
    )
    assert found.exit_code in (0, 1), found.output
    return found.exit_code, json.loads((folder / "out" / "report.json").read_text())["backends"][0]["compressed"]


def test_text_is_scored_and_compared(folder: Path) -> None:
    code, file = run(folder, RECIPE + "budget: {kept: 90, accuracy_drop: 1}\n")
    assert code == 0
    assert (file["score"]["metric"], file["decoded"]["unit"]) == ("cer", "strings")
    assert file["score"]["value"] < 1
    assert file["decoded"]["equal_samples"] == file["decoded"]["kept"] == 16
    assert file["decoded"]["character_error"] == 0


def test_the_original_s_text_stands_for_labels(folder: Path) -> None:
    code, file = run(folder, RECIPE.replace("labels: texts", "labels: null"))
    assert code == 0
    assert file["score"]["reference"] == "original"
    assert file["score"]["value"] == 0


def test_a_worse_alphabet_is_seen_in_the_score(folder: Path) -> None:
    (folder / "letters.txt").write_text("a\nb\nx\n")
    _, file = run(folder, RECIPE)
    assert file["score"]["value"] > 10
    assert file["change"]["drop"] == 0


def test_the_alphabet_s_file_decides_what_is_taken_from_the_cache(folder: Path) -> None:
    def key() -> str | None:
        return next(step.key for step in compressctl.plan(folder / "recipe.yaml").steps if step.kind == "stage")

    (folder / "recipe.yaml").write_text(RECIPE)
    before = key()
    assert key() == before
    (folder / "letters.txt").write_text("a\nb\nx\n")
    assert key() != before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "nothing says how recognition reads results off outputs"),
        ("decode: {use: ctc}", "alphabet"),
        ("decode: {use: ctc, alphabet: []}", "alphabet"),
        ("decode: argmax", "argmax does not fit the task recognition"),
        ("decode: {use: sequence, vocabulary: v.txt, metric: wer}", "unknown key"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, line: str, words: str) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("decode: {use: ctc, alphabet: letters.txt}", line))
    with pytest.raises(RecipeError, match=words):
        compressctl.load_recipe(folder / "recipe.yaml")
