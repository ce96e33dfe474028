"""Models with states: sequences in, each file going on from its own states, judged at every step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from compressctl.cli.main import app

HIDDEN, IN = 16, 6
RECIPE = """recipe: compressctl/v1
task: frame-classification
decode: {use: frames, threshold: 0.5}
model: {source: onnx, path: step.onnx, states: {state: stateN}, constants: {sr: 16000}}
data: {source: npz, path: data.npz, inputs: x, labels: labels, calibration: 8, validation: 4, test: 6}
stages: [{use: quantize.weights, bits: 8, if_slower: keep, gate: {kept: 90, accuracy_drop: 5}}]
"""


def step_model(path: Path, scale: float = 0.9) -> None:
    """h = tanh(x W + state R), one row a sequence; its score is a number, above 0.5 or not. `sr` halves x unless it is 16000."""
    rng = np.random.default_rng(0)
    recurrent = scale * np.linalg.qr(rng.normal(size=(HIDDEN, HIDDEN)))[0]
    constants = {
        "w": rng.normal(size=(IN, HIDDEN)) * 0.5,
        "r": recurrent,
        "v": rng.normal(size=(HIDDEN, 1)),
        "first": np.array([0]),
        "rate": np.array(16000.0),
    }
    nodes = [
        ("Cast", ["sr"], ["rated"], {"to": TensorProto.FLOAT}),
        ("Div", ["rated", "rate"], ["factor"], {}),
        ("Mul", ["input", "factor"], ["scaled"], {}),
        ("MatMul", ["scaled", "w"], ["from_x"], {}),
        ("Squeeze", ["state", "first"], ["before"], {}),
        ("MatMul", ["before", "r"], ["from_state"], {}),
        ("Add", ["from_x", "from_state"], ["sum"], {}),
        ("Tanh", ["sum"], ["hidden"], {}),
        ("Unsqueeze", ["hidden", "first"], ["stateN"], {}),
        ("MatMul", ["hidden", "v"], ["logit"], {}),
        ("Sigmoid", ["logit"], ["output"], {}),
    ]
    ends = {
        "input": ["batch", IN],
        "state": [1, "batch", HIDDEN],
        "output": ["batch", 1],
        "stateN": [1, "batch", HIDDEN],
    }
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items()}
    graph = helper.make_graph(
        [helper.make_node(op, given, made, name=made[0], **more) for op, given, made, more in nodes],
        "step",
        [values["input"], values["state"], helper.make_tensor_value_info("sr", TensorProto.INT64, [])],
        [values["output"], values["stateN"]],
        [
            numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
            for name, value in constants.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def scores(path: Path, sequences: np.ndarray) -> np.ndarray:
    """(sequences, steps), computed by a loop of its own."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = []
    for sequence in sequences:
        state, row = np.zeros((1, 1, HIDDEN), np.float32), []
        for step in sequence:
            given = {"input": step[None], "state": state, "sr": np.array(16000)}
            output, state = session.run(["output", "stateN"], given)
            row.append(float(output[0, 0]))
        found.append(row)
    return np.array(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    step_model(tmp_path / "step.onnx")
    x = np.random.default_rng(1).normal(size=(24, 30, IN)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=(scores(tmp_path / "step.onnx", x) > 0.5).astype(np.int64))
    return tmp_path


def apply(folder: Path, text: str = RECIPE) -> tuple[int, str, Any]:
    (folder / "recipe.yaml").write_text(text)
    found = CliRunner().invoke(
        app, ["apply", str(folder / "recipe.yaml"), "--measure", "quick", "--output", str(folder / "out")]
    )
    path = folder / "out" / "report.json"
    return found.exit_code, found.output, json.loads(path.read_text()) if path.exists() else None


def test_each_file_goes_on_from_its_own_states_and_every_step_is_judged(folder: Path) -> None:
    static = "use: quantize.static, if_slower: keep, gate: {kept: 70}"
    code, output, report = apply(
        folder, RECIPE[: RECIPE.index("stages:")] + f"stages: [{{{static}}}]\nbudget: {{kept: 70}}\n"
    )
    assert code == 0, output
    assert report["stages"][0]["facts"]["calibration_samples"] == 8 * 30
    file = report["backends"][0]["compressed"]
    assert (file["score"]["metric"], file["score"]["samples"]) == ("frame_accuracy", 6)
    assert report["backends"][0]["baseline"]["score"]["value"] == 100
    assert (file["fidelity"]["samples"], file["fidelity"]["steps"]) == (6, 180)
    assert file["decoded"]["reference"] == 180
    assert [found["name"] for found in file["fidelity"]["outputs"]] == ["output"]
    assert "at 180 steps of 6 sequences of the test split" in (folder / "out" / "report.md").read_text()
    # What is timed is a step: one row, its state and the constant.
    assert file["latency"]["shapes"] == {"input": [1, IN], "state": [1, 1, HIDDEN], "sr": []}


def test_what_is_compared_is_what_a_loop_of_one_s_own_computes(folder: Path) -> None:
    """Errors add up from step to step; with the original's states at each step they would be smaller."""
    text = RECIPE.replace("bits: 8", "bits: 4").replace("gate: {kept: 90, accuracy_drop: 5}", "enabled: true")
    code, output, report = apply(
        folder,
        text.replace("test: 6", "test: 16").replace("calibration: 8, validation: 4", "calibration: 4, validation: 4"),
    )
    assert code == 0, output
    part = report["backends"][0]
    [found] = part["compressed"]["fidelity"]["outputs"]
    x = np.load(folder / "data.npz")["x"]
    made = folder / "out" / "artifacts" / "onnxruntime" / "model.onnx"
    was, now = scores(folder / "step.onnx", x), scores(made, x)
    assert found["largest_difference"] <= np.abs(was - now).max() + 1e-6
    assert found["samples"] == 16 * 30
    equal = np.mean((was > 0.5) == (now > 0.5))
    assert found["agreement"] == pytest.approx(equal, abs=0.05)


def test_a_gate_stops_a_file_whose_errors_add_up(folder: Path) -> None:
    ruin = "{use: prune.unstructured, sparsity: 0.95, if_slower: keep, gate: {kept: 95, otherwise: stop}}"
    code, output, _ = apply(folder, RECIPE[: RECIPE.index("stages:")] + f"stages: [{ruin}]\n")
    assert code != 0
    assert "kept" in output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("states: {state: stateN}", "states: {state: output}", "cannot be the next state"),
        ("states: {state: stateN}", "states: {state: nothing}", "no output 'nothing'"),
        ("states: {state: stateN}, ", "", "states: {state: stateN}"),
        ("constants: {sr: 16000}", "constants: {rate: 1}", "no input 'rate'"),
        ("inputs: x", "inputs: labels", "no axis of steps"),
    ],
)
def test_what_does_not_fit_is_said(folder: Path, old: str, new: str, said: str) -> None:
    code, output, _ = apply(folder, RECIPE.replace(old, new))
    assert code == 2 or code == 3, output
    assert said in " ".join(output.split())


def test_sequences_of_other_lengths_are_run_one_by_one_with_states_that_are_recognised(folder: Path) -> None:
    from scipy.io import wavfile

    (folder / "sounds").mkdir()
    rng = np.random.default_rng(2)
    for number in range(8):
        samples = (rng.normal(size=IN * (10 + number)) * 9000).clip(-32768, 32767).astype(np.int16)
        wavfile.write(folder / "sounds" / f"{number}.wav", 16000, samples)
    data = f"data: {{source: wav_folder, path: sounds, labels: null, frames: [{IN}, {IN}], calibration: 2, validation: 2, test: 4}}"
    lines = [data if line.startswith("data:") else line for line in RECIPE.splitlines()]
    code, output, report = apply(folder, "\n".join(lines).replace("{state: stateN}", "auto"))
    assert code == 0, output
    assert any("state = stateN" in warning for warning in report["warnings"])
    file = report["backends"][0]["compressed"]
    assert file["fidelity"]["samples"] == 4
    assert 4 * 10 <= file["fidelity"]["steps"] <= 4 * 17
    assert file["score"]["reference"] == "original"


def test_diff_and_evaluate_go_through_the_sequences_too(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE)
    step_model(folder / "other.onnx", scale=0.88)
    files = [str(folder / name) for name in ("step.onnx", "other.onnx")]
    found = CliRunner().invoke(app, ["diff", *files, "--data", str(folder / "recipe.yaml"), "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.output)
    assert [(output["name"], output["samples"]) for output in told["outputs"]] == [("output", 180)]
    assert told["tensors"]
    timed = CliRunner().invoke(app, ["bench", *files, "--data", str(folder / "recipe.yaml"), "--json"])
    assert timed.exit_code == 0, timed.output
    scored = CliRunner().invoke(app, ["evaluate", files[0], "--data", str(folder / "recipe.yaml"), "--json"])
    assert json.loads(scored.output)["value"] == 100


def test_recorded_calls_of_a_subfolder_are_a_sequence(folder: Path) -> None:
    x = np.load(folder / "data.npz")["x"]
    for place, sequence in enumerate(x[:3]):
        (folder / "calls" / f"{place}").mkdir(parents=True)
        for step, values in enumerate(sequence[: 10 + place]):
            np.savez(folder / "calls" / f"{place}" / f"{step:03}.npz", input=values[None])
    data = "data: {source: requests, path: calls, sequences: true, calibration: 0, validation: 0, test: 3}"
    lines = [
        data if line.startswith("data:") else line for line in RECIPE.splitlines() if not line.startswith("stages:")
    ]
    (folder / "recipe.yaml").write_text("\n".join([*lines, "stages: []"]))
    step_model(folder / "other.onnx", scale=0.5)
    files = [str(folder / name) for name in ("step.onnx", "other.onnx")]
    found = CliRunner().invoke(app, ["diff", *files, "--data", str(folder / "recipe.yaml"), "--json", "--layers", "0"])
    assert found.exit_code == 0, found.output
    [output] = json.loads(found.output)["outputs"]
    assert output["samples"] == 10 + 11 + 12
    was, now = (
        np.concatenate([scores(Path(file), x[place : place + 1, : 10 + place])[0] for place in range(3)])
        for file in files
    )
    assert output["largest_difference"] == pytest.approx(np.abs(was - now).max(), rel=1e-5)


def test_a_first_recipe_says_which_outputs_look_like_states(folder: Path) -> None:
    written = CliRunner().invoke(app, ["init", str(folder / "step.onnx"), "--output", str(folder / "first.yaml")])
    assert written.exit_code == 0, written.output
    assert "states: {state: stateN}" in (folder / "first.yaml").read_text()


def test_a_function_that_calls_the_model_keeps_its_states_itself(folder: Path) -> None:
    (folder / "both.py").write_text("def read(models, inputs): ...")
    text = "\n".join(line for line in RECIPE.splitlines() if not line.startswith("decode:"))
    (folder / "recipe.yaml").write_text(text + "\npipeline: {function: both.py:read, role: step}\n")
    found = CliRunner().invoke(app, ["validate", str(folder / "recipe.yaml")])
    assert found.exit_code == 2
    assert "keeps its states" in found.output
