"""What a clock decides while a file is written stands in the lock and in the pinned recipe, and is not decided anew."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from support.digit_network import digits, fitted_network
from typer.testing import CliRunner

import compressctl
from compressctl.backends.onnxruntime import choose
from compressctl.cli.main import app
from compressctl.recipe.lock import load_lock

NBITS, QDQ = 1, 3
"""Places among what is timed for 4-bit weights: float weights, two kinds of MatMulNBits, DequantizeLinear, unpacked at load."""


def fastest(place: int) -> Callable[[Sequence[object]], list[float]]:
    """A clock on which one of the forms is fastest whatever it is."""
    return lambda calls: [1.0 if position == place else 100.0 for position in range(len(calls))]


def recipe(folder: Path) -> dict[str, Any]:
    onnx.save(fitted_network(digits()).body, folder / "digits.onnx")
    return {
        "recipe": "compressctl/v1",
        "model": {"source": "onnx", "path": str(folder / "digits.onnx")},
        "data": {"source": "digits", "calibration": 100},
        "stages": [{"use": "quantize.weights", "id": "weights", "bits": 4, "if_slower": "keep"}],
        "export": ["onnxruntime"],
    }


def operators(run: Path) -> list[str]:
    graph = onnx.load(run / "artifacts" / "onnxruntime" / "model.onnx").graph
    return [node.op_type for node in graph.node]


def test_a_repeat_on_another_clock_writes_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other, again = tmp_path / "first", tmp_path / "other", tmp_path / "again"
    monkeypatch.setattr(choose, "_interleaved", fastest(NBITS))
    compressctl.apply(recipe(tmp_path), output=first, measure="untimed", cache=False)
    assert "MatMulNBits" in operators(first)

    monkeypatch.setattr(choose, "_interleaved", fastest(QDQ))
    compressctl.apply(recipe(tmp_path), output=other, measure="untimed", cache=False)
    assert operators(other) != operators(first), "this clock would have decided otherwise"

    done = CliRunner().invoke(
        app, ["reproduce", str(first / "recipe.lock.yaml"), "--measure", "untimed", "--output", str(again)]
    )
    assert done.exit_code == 0, done.output
    assert operators(again) == operators(first)
    assert (
        load_lock(first / "recipe.lock.yaml")[0].export[0].params
        == load_lock(again / "recipe.lock.yaml")[0].export[0].params
    )

    pinned = yaml.safe_load((first / "recipe.pinned.yaml").read_text())
    assert set(pinned["export"][0]["weight_form"].values()) == {"matmul_nbits"}
    compressctl.apply(first / "recipe.pinned.yaml", output=tmp_path / "pinned", measure="untimed", cache=False)
    assert operators(tmp_path / "pinned") == operators(first)


def test_nodes_that_the_recipe_does_not_name_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_interleaved", fastest(NBITS))
    content = recipe(tmp_path)
    content["export"] = [{"backend": "onnxruntime", "weight_form": {"another": "qdq"}}]
    compressctl.apply(content, output=tmp_path / "out", measure="untimed", cache=False)
    assert "MatMulNBits" in operators(tmp_path / "out")
    (part,) = json.loads((tmp_path / "out" / "report.json").read_text())["backends"]
    assert any("weight_form names another (qdq), which the file does not hold so" in note for note in part["notes"])


@pytest.mark.parametrize("decided", ["[1]", "text", "{onnxruntime: 3}", "{onnxruntime: {weight_form: {a: fast}}}"])
def test_a_lock_with_damaged_decisions_is_refused(
    decided: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_interleaved", fastest(NBITS))
    compressctl.apply(recipe(tmp_path), output=tmp_path / "run", measure="untimed", cache=False)
    lock = tmp_path / "run" / "recipe.lock.yaml"
    kept = {key: value for key, value in yaml.safe_load(lock.read_text()).items() if key != "decided"}
    lock.write_text(yaml.safe_dump(kept) + f"decided: {decided}\n")
    done = CliRunner().invoke(app, ["reproduce", str(tmp_path / "run"), "--measure", "untimed"])
    assert done.exit_code == 2
    assert not (tmp_path / "run-reproduced").exists()
