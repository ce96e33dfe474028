"""Starter recipes: they are valid, they run, and what is guessed in them is named."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.shell import Shell

from compressctl.pipeline.starter import for_onnx
from compressctl.recipe.loader import load

RNG = np.random.default_rng(0)


def _weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def _save(path: Path, nodes: list[Any], inputs: list[Any], weights: list[Any], shape: list[Any]) -> None:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", inputs, [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _convolution(folder: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
    _save(
        folder / "net.onnx",
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        [x],
        [_weight("w", 32, 3, 3, 3)],
        ["N", 32, "h", "w"],
    )


def _tokens(folder: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "last"], ["n"]),
        helper.make_node("Mul", ["e", "n"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    last = numpy_helper.from_array(np.array([-1]), "last")
    _save(
        folder / "words.onnx",
        nodes,
        inputs,
        [_weight("table", 77, 64), _weight("w", 64, 64), last],
        ["batch", "sequence", 64],
    )


def test_a_starter_recipe_runs_at_once_and_says_what_was_guessed(shell: Shell) -> None:
    _tokens(shell.folder)
    made = shell.run("init", "words.onnx")
    assert made.code == 0, made.err
    assert "sequence = 128 is a guess" in made.out
    recipe = yaml.safe_load((shell.folder / "words.yaml").read_text())
    assert recipe["data"]["inputs"]["input_ids"] == {"shape": [128], "dtype": "int64", "low": 0, "high": 77}
    assert recipe["data"]["inputs"]["attention_mask"]["low"] == 1
    assert [stage["use"] for stage in recipe["stages"]] == ["quantize.dynamic"]
    done = shell.run("apply", "words.yaml", "--measure", "quick", "--output", "out")
    assert done.code == 0, done.out + done.err


def test_samples_that_somebody_has_lead_to_calibrated_integers_and_a_gate(shell: Shell) -> None:
    _convolution(shell.folder)
    (shell.folder / "calls").mkdir()
    for index in range(12):
        np.savez(shell.folder / f"calls/{index}.npz", x=RNG.random((1, 3, 16, 20), np.float32))
    made = shell.run("init", "net.onnx", "--data", "calls", "--shape", "H=16", "--shape", "W=20", "--output", "r.yaml")
    assert made.code == 0, made.err
    recipe = load(shell.folder / "r.yaml")
    assert (recipe.data.source, recipe.task, recipe.stages[0].use) == ("requests", "custom", "quantize.static")
    assert dict(recipe.target.shapes) == {"H": 16, "W": 20}
    assert shell.run("plan", "r.yaml", "--check").code == 0


def test_arrays_with_labels_are_a_classification(shell: Shell) -> None:
    _convolution(shell.folder)
    np.savez(shell.folder / "d.npz", x=np.zeros((30, 3, 8, 8), np.float32), labels=np.zeros(30, np.int64))
    assert shell.run("init", "net.onnx", "--data", "d.npz").code == 0
    recipe = yaml.safe_load((shell.folder / "net.yaml").read_text())
    assert recipe["task"] == "classification"
    assert recipe["data"] == {"source": "npz", "path": "d.npz", "inputs": "x", "labels": "labels"}


@pytest.mark.parametrize("model", ["builtin:digits-resnet", "net.py:make"])
def test_starters_of_other_models_are_valid(shell: Shell, model: str) -> None:
    (shell.folder / "net.py").write_text("def make():\n    raise SystemExit\n")
    assert shell.run("init", model, "--output", "r.yaml").code == 0
    assert shell.run("validate", "r.yaml").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["net.onnx", "--shape", "Z=3"], "no open axis 'Z'"),
        (["net.onnx", "--data", "nowhere"], "does not exist"),
        (["net.onnx", "--data", "empty"], "no kind of data"),
        (["other.onnx"], "does not exist"),
        (["weights.pt"], "no model that a recipe can be written for"),
        (["builtin:digits"], "there is no built-in network"),
        (["net.onnx", "--output", "there.yaml"], "exists"),
        (["net.onnx", "--output", "no/such/folder.yaml"], "cannot write no/such/folder.yaml"),
    ],
)
def test_what_cannot_be_started_is_said_in_one_message(shell: Shell, arguments: list[str], words: str) -> None:
    _convolution(shell.folder)
    (shell.folder / "empty").mkdir()
    (shell.folder / "there.yaml").write_text("mine")
    done = shell.run("init", *arguments)
    assert done.code == 2
    assert words in done.err
    assert (shell.folder / "there.yaml").read_text() == "mine"
    assert not (shell.folder / "net.yaml").exists()


def test_a_model_in_a_recipes_place_is_told_what_to_type(shell: Shell) -> None:
    _convolution(shell.folder)
    done = shell.run("apply", "net.onnx")
    assert done.code == 2
    assert "compressctl init net.onnx" in done.err


_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12)


@settings(max_examples=60)
@given(name=_NAMES, stem=_NAMES, axes=st.lists(st.one_of(st.integers(-1, 9), _NAMES), max_size=4))
def test_a_starter_is_valid_whatever_names_a_file_has(
    tmp_path_factory: pytest.TempPathFactory, name: str, stem: str, axes: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("starter")
    x = helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)
    _save(folder / "m.onnx", [helper.make_node("Identity", [name], ["y"])], [x], [], axes)
    try:
        path = folder / (stem.replace("/", "-").replace("\0", "-") + ".onnx")
        (folder / "m.onnx").rename(path)
    except (OSError, ValueError):
        return
    (folder / "r.yaml").write_text(for_onnx(path, folder / "r.yaml", None, {}).text, encoding="utf-8")
    recipe = load(folder / "r.yaml")
    assert list(recipe.data.params.inputs) == [name]
    assert (folder / recipe.model.params.path).resolve() == path.resolve()
