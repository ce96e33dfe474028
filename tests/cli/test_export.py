"""compressctl export: one file in other runtimes' forms, and a recipe with three deliverables."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import residual_model
from support.shell import Shell

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.target import Target


@pytest.fixture
def quantized(shell: Shell) -> Path:
    path = shell.folder / "quantized.onnx"
    onnx.save(to_onnx(residual_model(), Target("onnxruntime", profile="x86-vnni")), path)
    return path


def test_a_quantized_file_becomes_three_deliverables(shell: Shell, quantized: Path) -> None:
    done = shell.run("export", quantized.name, "--to", "onnxruntime,openvino", "--to", "tensorrt", "--output", "out")
    assert done.code == 0, done.err
    assert "were read from its Q/DQ nodes" in done.out
    assert done.out.count("100% of the multiply-accumulates run on integers") == 2
    assert "engine not built" in done.out
    files = sorted(str(path.relative_to(shell.folder / "out")) for path in (shell.folder / "out").rglob("*.*"))
    assert files == [
        "onnxruntime/model.onnx", "openvino/model.bin", "openvino/model.xml", "tensorrt/build_engine.py",
        "tensorrt/model.onnx",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to", "openvina"], "openvino"),
        (["--to", "openvino", "--option", "openvino.precison=f"], "precision"),
        (["--to", "openvino", "--option", "openvino.precision=float64"], "float32"),
        (["--to", "openvino", "--option", "nonsense"], "BACKEND.KEY=VALUE"),
        (["--to", "openvino", "--profile", "x86-vni"], "x86-vnni"),
    ],
)
def test_wrong_arguments_are_one_message(shell: Shell, quantized: Path, arguments: list[str], says: str) -> None:
    done = shell.run("export", quantized.name, *arguments)
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err
    assert not (shell.folder / "exported").exists()


def test_one_recipe_gives_three_deliverables_that_agree(shell: Shell) -> None:
    recipe = shell.recipe(
        "three.yaml",
        "  - {use: quantize.static, if_slower: keep}",
        "export: [onnxruntime, {backend: openvino, streams: 1}, tensorrt]",
    )
    done = shell.run("apply", recipe, "--output", "out")
    assert done.code == 0, done.err
    parts = {part["backend"]: part for part in shell.report("out")["backends"]}
    assert list(parts) == ["onnxruntime", "openvino", "tensorrt"]
    scores = [part["compressed"]["score"]["value"] for part in parts.values()]
    assert max(scores) - min(scores) <= 0.3
    assert parts["openvino"]["compressed"]["integer_mac_share"] == 1.0
    assert parts["openvino"]["compressed"]["speed"] is not None
    assert parts["tensorrt"]["compressed"]["latency"] is None
    assert any("engine not built" in note for note in parts["tensorrt"]["notes"])
    assert "Engine not built" in (shell.folder / "out" / "report.html").read_text()


def test_weights_packed_by_onnxruntime_become_three_deliverables(shell: Shell) -> None:
    """Its own 4-bit quantizer writes MatMulNBits, which TensorRT does not know."""
    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    value, rng = helper.make_tensor_value_info, np.random.default_rng(0)
    weights = {f"w{number}": rng.normal(0, 0.1, (128, 128)).astype(np.float32) for number in (1, 2)}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "up"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], "down"),
    ]
    io = [[value(name, TensorProto.FLOAT, ["batch", 128])] for name in ("x", "y")]
    graph = helper.make_graph(
        nodes, "g", *io, [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    theirs = quantizer.MatMulNBitsQuantizer(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), block_size=64
    )
    theirs.process()
    onnx.save(theirs.model.model, shell.folder / "four.onnx")
    done = shell.run("export", "four.onnx", "--to", "onnxruntime,openvino,tensorrt", "--output", "out")
    assert done.code == 0, done.err
    assert "0 quantized activations and 2 weights were read" in done.out
    assert "128 x 128 uint4 weights (MatMul" in done.out
    decibels = [float(found) for found in re.findall(r"on random values: y ([\d.]+) dB", done.out)]
    assert len(decibels) == 3 - done.out.count("y identical")
    assert all(found > 30 for found in decibels[:-1])
    # Around zero in 4 bits is coarser than what the file held, and said.
    assert "rounded again, to INT4 around zero" in done.out
    sizes = {path.parent.name: path.stat().st_size for path in (shell.folder / "out").rglob("model.*")}
    assert max(sizes.values()) < 128 * 128 * 2 / 2 + 6000
