"""Models as strangers have them, through whole runs: open axes, several outputs, no labels, scalars, baked batches."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.shell import Shell

RNG = np.random.default_rng(0)


def _weight(name: str, *shape: int, scale: float = 0.1) -> onnx.TensorProto:
    return numpy_helper.from_array((RNG.standard_normal(shape) * scale).astype(np.float32), name)


def _value(name: str, shape: list[Any], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _save(
    shell: Shell, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any], opset: int = 17
) -> None:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, shell.folder / "m.onnx")


def _recipe(shell: Shell, stage: str, data: str, **more: str) -> str:
    lines = [
        "recipe: compressctl/v1",
        f"task: {more.pop('task', 'custom')}",
        "model: {source: onnx, path: m.onnx}",
        *([f"data: {data}"] if data else []),
        f"stages: [{stage}]",
        *(f"{key}: {value}" for key, value in more.items()),
    ]
    (shell.folder / "r.yaml").write_text("\n".join(lines) + "\n")
    return "r.yaml"


NPZ = "{source: npz, path: d.npz, calibration: 16, validation: 8, test: 16}"
WEIGHTS = "{use: quantize.weights, id: small, bits: 8, if_slower: keep}"


def _run(shell: Shell, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = shell.run("apply", "r.yaml", "--measure", "quick", "--output", "out", *arguments)
    report = shell.report("out") if (shell.folder / "out" / "report.json").exists() else {}
    return done.code, report, done.out + done.err


def _two_outputs(shell: Shell) -> None:
    """The second output comes of a weight that 2 bits make dead."""
    large = (RNG.standard_normal((64, 32)) * 0.05).astype(np.float32)
    large[0, :] = 60
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["boxes"]),
        helper.make_node("MatMul", ["x", "b"], ["t"]),
        helper.make_node("Tanh", ["t"], ["u"]),
        helper.make_node("MatMul", ["u", "c"], ["scores"]),
    ]
    weights = [_weight("a", 64, 32), numpy_helper.from_array(large, "b"), _weight("c", 32, 8)]
    _save(shell, nodes, [_value("x", ["N", 64])], [_value("boxes", ["N", 32]), _value("scores", ["N", 8])], weights)
    x = RNG.standard_normal((64, 64)).astype(np.float32)
    x[:, 0] = 0
    np.savez(shell.folder / "d.npz", x=x)


TWO_BITS = "{use: quantize.weights, id: two, bits: 2, granularity: channel, if_slower: keep, overrides: [{match: a, bits: float}]%s}"


def test_an_open_image_is_timed_and_counted_at_the_datas_size(shell: Shell) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)]
    _save(
        shell, nodes, [_value("x", ["N", 3, "H", "W"])], [_value("y", ["N", 8, "H", "W"])], [_weight("w", 8, 3, 3, 3)]
    )
    np.savez(shell.folder / "d.npz", x=RNG.random((40, 3, 24, 20), np.float32))
    _recipe(shell, WEIGHTS, NPZ)
    code, report, said = _run(shell)
    assert code == 0, said
    after = report["backends"][0]["compressed"]
    assert after["latency"]["shapes"] == {"x": [1, 3, 24, 20]}
    assert after["latency"]["values"] == "data"
    assert after["macs"] == 8 * 3 * 9 * 24 * 20
    code, report, _ = _run(shell, "--shape", "H=48", "--output", "large")
    report = shell.report("large")
    assert report["backends"][0]["compressed"]["latency"]["shapes"] == {"x": [1, 3, 48, 20]}
    assert report["backends"][0]["compressed"]["fidelity"]["samples"] == 16


def test_without_data_or_shape_an_open_axis_is_an_error_that_names_the_line(shell: Shell) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    _save(shell, nodes, [_value("x", [-1, 3, -1, 16])], [_value("y", [-1, 8, -1, 14])], [_weight("w", 8, 3, 3, 3)])
    _recipe(shell, WEIGHTS, "")
    code, _, said = _run(shell)
    assert code == 2
    assert "x.2" in said
    assert "target: {shapes: {x.2: 64}}" in said
    code, report, said = _run(shell, "--shape", "x.2=16", "--output", "asked")
    assert code == 0, said
    report = shell.report("asked")
    assert report["summary"][0].startswith("not compared with the original: the recipe has no data")
    assert report["backends"][0]["compressed"]["latency"]["values"] == "random"
    strict = shell.run("apply", "r.yaml", "--measure", "quick", "--shape", "x.2=16", "--output", "strict", "--strict")
    assert strict.code == 1


def test_every_output_is_compared_and_a_dead_one_heads_the_verdict(shell: Shell) -> None:
    _two_outputs(shell)
    _recipe(shell, TWO_BITS % "", NPZ)
    code, report, said = _run(shell)
    assert code == 0, said
    assert report["summary"][0].startswith("differs from the original: scores")
    found = {output["name"]: output for output in report["backends"][0]["compressed"]["fidelity"]["outputs"]}
    assert found["boxes"]["identical"]
    x = np.load(shell.folder / "d.npz")["x"]
    files = (shell.folder / "m.onnx", shell.folder / "out" / "artifacts" / "onnxruntime" / "model.onnx")
    before, after = (onnxruntime.InferenceSession(str(file)).run(["scores"], {"x": x})[0] for file in files)
    assert np.ptp(after) < np.ptp(before) / 10
    stage = report["stages"][-1]["facts"]["fidelity"]
    assert stage["split"] == "validation"
    assert stage["outputs"]["scores"]["cosine"] < 0.99
    assert "scores" in (shell.folder / "out" / "report.md").read_text()


def test_a_gate_on_outputs_gives_back_the_layer_that_kills_one(shell: Shell) -> None:
    _two_outputs(shell)
    _recipe(shell, TWO_BITS % ", gate: {sqnr_db: {scores: 20}}", NPZ, budget="{sqnr_db: 20, cosine: 0.99}")
    code, report, said = _run(shell)
    assert code == 0, said
    assert report["stages"][-1]["facts"]["left_in_float"]
    assert all(line["holds"] for line in report["budget"])


@pytest.mark.parametrize(("budget", "code"), [("{cosine: {scores: 0.9}}", 1), ("{cosine: {boxes: 0.9}}", 0)])
def test_a_budget_bounds_the_output_that_it_names(shell: Shell, budget: str, code: int) -> None:
    _two_outputs(shell)
    _recipe(shell, TWO_BITS % "", NPZ, budget=budget)
    assert _run(shell)[0] == code


def test_scalars_and_states_are_fed_as_the_model_takes_them(shell: Shell) -> None:
    nodes = [
        helper.make_node("Cast", ["sr"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["t"]),
        helper.make_node("Mul", ["t", "f"], ["u"]),
        helper.make_node("ReduceSum", ["state", "ax"], ["q"], keepdims=0),
        helper.make_node("Add", ["u", "q"], ["y"]),
    ]
    inputs = [_value("x", ["N", 64]), _value("state", [2, "N", 32]), _value("sr", [], TensorProto.INT64)]
    weights = [_weight("w", 64, 32), numpy_helper.from_array(np.array([0]), "ax")]
    _save(shell, nodes, inputs, [_value("y", ["N", 32])], weights)
    (shell.folder / "calls").mkdir()
    for number in range(30):
        arrays = {"x": RNG.random((1, 64), np.float32), "state": RNG.random((2, 1, 32), np.float32), "sr": np.array(8)}
        np.savez(shell.folder / "calls" / f"{number:02}.npz", **arrays)
    _recipe(shell, WEIGHTS, "{source: requests, path: calls, calibration: 8, validation: 8, test: 8}")
    code, report, said = _run(shell)
    assert code == 0, said
    shapes = report["backends"][0]["compressed"]["latency"]["shapes"]
    assert shapes == {"x": [1, 64], "state": [2, 1, 32], "sr": []}
    assert report["backends"][0]["compressed"]["fidelity"]["samples"] == 8
    np.savez(
        shell.folder / "d.npz",
        x=RNG.random((30, 64), np.float32),
        state=RNG.random((2, 30, 32), np.float32),
        sr=np.array(8),
    )
    _recipe(shell, WEIGHTS, "{source: npz, path: d.npz, calibration: 8, validation: 8, test: 8}")
    assert shell.run("apply", "r.yaml", "--measure", "quick", "--output", "npz").code == 0


def test_a_batch_written_into_a_reshape_goes_on_with_one_sample_and_says_so(shell: Shell) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Reshape", ["t", "s"], ["y"])]
    weights = [_weight("w", 64, 32), numpy_helper.from_array(np.array([1, 8, 4, 8]), "s")]
    _save(shell, nodes, [_value("x", ["batch", 8, 64])], [_value("y", [1, 8, 4, 8])], weights)
    np.savez(shell.folder / "d.npz", x=RNG.standard_normal((40, 8, 64)).astype(np.float32))
    _recipe(shell, "{use: quantize.static, id: int8, if_slower: keep}", NPZ, target="{batch_size: 4}")
    code, report, said = _run(shell)
    assert code == 0, said
    assert any("takes one sample at a time" in warning for warning in report["warnings"])
    latency = report["backends"][0]["compressed"]["latency"]
    assert (latency["batch"], latency["shapes"]) == (1, {"x": [1, 8, 64]})


def test_a_failing_deliverable_leaves_the_others_measured(shell: Shell) -> None:
    """Preprocessing that does not fit the input is refused when OpenVINO's file is built."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    _save(shell, nodes, [_value("x", ["N", 64])], [_value("y", ["N", 32])], [_weight("w", 64, 32)])
    np.savez(shell.folder / "d.npz", x=RNG.random((40, 64), np.float32))
    export = "[{backend: openvino, preprocess: {layout: NHWC, scale: 1.0, mean: [0.5, 0.5, 0.5]}}, onnxruntime]"
    _recipe(shell, WEIGHTS, NPZ, export=export, budget="{size: 1MB}")
    code, report, said = _run(shell)
    assert code in (2, 4), said
    assert "1 of 2 deliverables failed; the others are measured" in said
    assert [part["backend"] for part in report["backends"]] == ["onnxruntime"]
    assert report["backends"][0]["compressed"]["fidelity"]["samples"] == 16
    assert [(line["name"], line["holds"]) for line in report["budget"]] == [("size", False)]


def test_diff_says_where_two_files_part(shell: Shell) -> None:
    _two_outputs(shell)
    _recipe(shell, TWO_BITS % "", NPZ)
    assert _run(shell)[0] == 0
    done = shell.run("diff", "m.onnx", "out/artifacts/onnxruntime/model.onnx", "--data", "r.yaml")
    assert done.code == 0, done.err
    assert "boxes: identical" in done.out
    assert "scores: " in done.out
    assert "they part at" in done.out
    same = shell.run("diff", "m.onnx", "m.onnx")
    assert "no tensor that both have is below 20 dB" in same.out


def test_plan_check_flies_one_batch_and_nothing_more(shell: Shell) -> None:
    _two_outputs(shell)
    _recipe(shell, WEIGHTS, NPZ)
    done = shell.run("plan", "r.yaml", "--check")
    assert done.code == 0, done.err
    assert "checked: one real batch" in done.out
    assert not (shell.folder / "runs").exists()
    np.savez(shell.folder / "d.npz", other=RNG.random((40, 64), np.float32), more=RNG.random((40, 2), np.float32))
    refused = shell.run("plan", "r.yaml", "--check")
    assert refused.code == 2
    assert "the model takes x but the data gives other, more" in refused.err


def test_a_second_output_is_held_while_the_first_is_trained(shell: Shell) -> None:
    pytest.importorskip("accelerate")
    (shell.folder / "net.py").write_text("""
import torch
from sklearn.datasets import load_digits
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU())
        self.classes, self.boxes = torch.nn.Linear(32, 10), torch.nn.Linear(32, 4)
    def forward(self, x):
        hidden = self.body(x)
        return self.classes(hidden), self.boxes(hidden)
def data():
    digits = load_digits()
    return (digits.images / 16).astype("float32")[:400, None], digits.target[:400].astype("int64")
""")
    (shell.folder / "r.yaml").write_text("""recipe: compressctl/v1
model: {source: python, factory: "net.py:Net", input_shape: [1, 8, 8]}
data: {source: python, factory: "net.py:data"}
stages:
  - {id: tune, use: finetune, epochs: 1}
  - {id: small, use: quantize.weights, bits: 8, if_slower: keep}
""")
    code, report, said = _run(shell)
    assert code == 0, said
    (tuned,) = [stage for stage in report["stages"] if stage["id"] == "tune"]
    assert "output_1" in str(tuned["facts"]["other_outputs"])
    names = [output["name"] for output in report["backends"][0]["compressed"]["fidelity"]["outputs"]]
    assert names == ["output_0", "output_1"]


def test_a_split_that_a_stage_takes_and_that_is_empty_is_said_before_any_stage(shell: Shell) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    _save(shell, nodes, [_value("x", ["N", 64])], [_value("y", ["N", 32])], [_weight("w", 64, 32)])
    np.savez(shell.folder / "d.npz", x=RNG.random((10, 64), np.float32))
    _recipe(
        shell,
        "{use: quantize.static, id: int8}",
        "{source: npz, path: d.npz, labels: null, inputs: x, test: 10, validation: 0}",
    )
    done = shell.run("plan", "r.yaml", "--check")
    assert done.code == 2
    assert "stage int8 takes samples of the calibration split, and it has none" in done.err
    assert "test 10" in done.err


def test_every_recorded_output_is_held_against_the_original(shell: Shell) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weight = _weight("w", 64, 32)
    _save(shell, nodes, [_value("x", ["N", 64])], [_value("y", ["N", 32])], [weight])
    for place in range(6):
        folder = shell.folder / f"zoo/test_data_set_{place}"
        folder.mkdir(parents=True)
        x = RNG.standard_normal((1, 64)).astype(np.float32)
        y = x @ numpy_helper.to_array(weight) * (3 if place == 4 else 1)
        for kind, name, array in (("input", "x", x), ("output", "y", y)):
            (folder / f"{kind}_0.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())
    data = "{source: onnx_test_data, path: zoo, calibration: 2, validation: 1, test: 2}"
    _recipe(shell, WEIGHTS, data)
    done = shell.run("plan", "r.yaml", "--check")
    assert done.code == 0, done.err
    assert "the original's y is off what was recorded by" in done.out


def test_a_raised_opset_is_told(shell: Shell) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    _save(shell, [product], [_value("x", ["N", 32])], [_value("y", ["N", 16])], [_weight("w", 32, 16)], opset=9)
    np.savez(shell.folder / "d.npz", x=RNG.standard_normal((40, 32)).astype(np.float32))
    _recipe(shell, WEIGHTS, NPZ)
    code, report, said = _run(shell)
    assert code == 0, said
    written = onnx.load(shell.folder / "out" / "artifacts" / "onnxruntime" / "model.onnx")
    told = f"the model's opset 9 was raised to {written.opset_import[0].version}"
    assert told in " ".join(report["backends"][0]["notes"])
    assert told[4:] in " ".join(said.split())
