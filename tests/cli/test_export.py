"""compressctl export: one file in other runtimes' forms, and a recipe with three deliverables."""

from pathlib import Path

import onnx
import pytest
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
        "three.yaml", "  - {use: quantize.static}", "export: [onnxruntime, {backend: openvino, streams: 1}, tensorrt]"
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
