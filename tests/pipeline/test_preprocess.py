"""Runs whose file prepares images itself: measured on images of bytes, compared with the original on what the data prepare."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.shell import Shell

DATA = "{source: image_folder, path: images, color: bgr, mean: [0.4, 0.5, 0.6], std: [0.2], calibration: 8, validation: 4, test: 8}"


@pytest.fixture
def folder(shell: Shell) -> Path:
    """A small network of 16x16 images in two classes, with an average over them."""
    rng = np.random.default_rng(0)
    for number in range(40):
        path = shell.folder / "images" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "d"], ["logits"], "head"),
    ]
    weights = {"w": rng.normal(0, 0.5, (16, 3, 3, 3)), "d": rng.normal(0, 1, (16, 2))}
    graph = helper.make_graph(
        nodes,
        "net",
        [value("input", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [value("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), shell.folder / "m.onnx"
    )
    return shell.folder


def recipe(shell: Shell, export: str, data: str = DATA, stage: str = "{use: quantize.static, if_slower: keep}") -> None:
    (shell.folder / "r.yaml").write_text(
        f"recipe: compressctl/v1\nmodel: {{source: onnx, path: m.onnx}}\ndata: {data}\nstages: [{stage}]\nexport: {export}\n"
    )


def test_the_report_is_of_the_file_that_takes_bytes(shell: Shell, folder: Path) -> None:
    recipe(
        shell, "[{backend: onnxruntime, preprocess: true, io_dtype: float16}, {backend: openvino, preprocess: true}]"
    )
    done = shell.run("apply", "r.yaml", "--measure", "quick", "--output", "out")
    assert done.code == 0, done.err
    for part in shell.report("out")["backends"]:
        assert part["baseline"]["latency"]["shapes"] == {"input": [1, 3, 16, 16]}
        assert part["compressed"]["latency"]["shapes"] == {"input": [1, 16, 16, 3]}
        (output,) = part["compressed"]["fidelity"]["outputs"]
        assert output["samples"] == 8
        assert output["sqnr_db"] > 15
        assert any("as images of bytes (uint8, NHWC, rgb)" in note for note in part["notes"])
    assert "images of bytes" in (shell.folder / "out" / "report.md").read_text()
    graph = onnx.load(folder / "out/artifacts/onnxruntime/model.onnx").graph
    types = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    assert types == [TensorProto.UINT8, TensorProto.FLOAT16]
    kinds = [node.op_type for node in graph.node]
    assert kinds.index("Cast") < kinds.index("QuantizeLinear")


def test_other_commands_read_a_file_that_takes_bytes(shell: Shell, folder: Path) -> None:
    recipe(shell, "[{backend: onnxruntime, preprocess: {color: bgr}}]", stage="{use: cast, dtype: float16}")
    assert shell.run("apply", "r.yaml", "--measure", "quick", "--output", "out").code == 0
    file = "out/artifacts/onnxruntime/model.onnx"
    scored = [shell.run("evaluate", name, "--data", "r.yaml") for name in ("m.onnx", file)]
    assert [done.code for done in scored] == [0, 0], scored[1].err
    assert scored[0].out == scored[1].out
    compared = shell.run("diff", "m.onnx", file, "--data", "r.yaml")
    assert "logits: " in compared.out, compared.err
    assert float(compared.out.split("logits: ")[1].split(" dB")[0]) > 50
    assert shell.run("bench", file, "--seconds", "0.2").code == 0


def test_export_takes_what_is_said_or_what_the_data_say(shell: Shell, folder: Path) -> None:
    recipe(shell, "[onnxruntime]")
    said = "onnxruntime.preprocess={mean: [0.4, 0.5, 0.6], std: [0.2], model_color: bgr}"
    plain = shell.run("export", "m.onnx", "--to", "onnxruntime,tensorrt", "--option", said, "--output", "a")
    assert plain.code == 0, plain.err
    options = ("--option", "onnxruntime.preprocess=true", "--data", "r.yaml")
    of_data = shell.run("export", "m.onnx", "--to", "onnxruntime", *options, "--output", "b")
    assert of_data.code == 0, of_data.err
    assert "beside the original, on random values" in plain.out
    assert "beside the original, on a sample of the data" in of_data.out
    one, other = (onnx.load(folder / place / "onnxruntime/model.onnx") for place in ("a", "b"))
    assert list(one.graph.node) == list(other.graph.node)
    assert list(one.graph.initializer) == list(other.graph.initializer)


def test_data_that_hold_no_images_are_said_before_any_stage(shell: Shell, folder: Path) -> None:
    recipe(shell, "[{backend: onnxruntime, preprocess: {scale: 0.01}}]")
    done = shell.run("plan", "--check", "r.yaml")
    assert done.code == 2
    assert "preprocess does not fit the data" in done.err


@pytest.mark.parametrize(
    ("export", "data", "words"),
    [
        (
            "[{backend: onnxruntime, preprocess: true}]",
            "{source: npz, path: d.npz}",
            "do not say how images are prepared",
        ),
        ("[{backend: onnxruntime, preprocess: {layout: HWC}}]", DATA, "NHWC"),
        ("[{backend: onnxruntime, preprocess: 3}]", DATA, "export[0].preprocess"),
        (
            "[{backend: onnxruntime, preprocess: {scale: 0}}]",
            DATA,
            "r.yaml:5:53  export[0].preprocess.scale: 0 is not above 0",
        ),
    ],
)
def test_what_cannot_be_folded_is_refused_before_anything_runs(
    shell: Shell, folder: Path, export: str, data: str, words: str
) -> None:
    recipe(shell, export, data)
    done = shell.run("validate", "r.yaml")
    assert done.code == 2
    assert words in done.err
    assert done.err.count("r.yaml:") == 1
