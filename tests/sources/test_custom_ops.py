"""Operators that ONNX Runtime does not bring: refused by name, or run with the library that the recipe names, everywhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.digit_runs import context, digits_data
from support.shell import Shell
from typer.testing import CliRunner

from compressctl.backends.onnxruntime import BACKEND
from compressctl.cli.main import app
from compressctl.core.custom_ops import EXTENSIONS, VARIABLE, known, library, using
from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.core.model import OnnxModel
from compressctl.core.registry import load as load_object
from compressctl.core.target import Target
from compressctl.core.technique import techniques
from compressctl.measure.session_host import SessionHost
from compressctl.sources.onnx_file import fingerprint, load
from compressctl.sources.params import OnnxParams

X = np.random.default_rng(1).random((16, 1, 8, 8)).astype(np.float32)


def _network(domain: str = "ai.onnx.contrib", op: str = "NegPos") -> onnx.ModelProto:
    """conv -> the negative part and the positive part -> their sum -> conv -> mean -> scores."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(0, 0.3, (16, 1, 3, 3)),
        "w2": rng.normal(0, 0.1, (32, 16, 3, 3)),
        "w3": rng.normal(0, 0.3, (10, 32)),
        "b3": np.zeros(10),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node(op, ["c1"], ["negative", "positive"], "parts", domain=domain),
        helper.make_node("Add", ["negative", "positive"], ["sum"], "sum"),
        helper.make_node("Conv", ["sum", "w2"], ["c2"], "conv2", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c2"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _without_parts() -> onnx.ModelProto:
    """The same function in standard operators: what is split into two parts and added again stays as it was."""
    model = _network()
    nodes = [node for node in model.graph.node if node.name not in ("parts", "sum")]
    next(node for node in nodes if node.name == "conv2").input[0] = "c1"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(_network(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def extensions() -> Iterator[Path]:
    pytest.importorskip("onnxruntime_extensions")
    path = library(EXTENSIONS, Path())
    with using([path]):
        yield path


def _loaded(path: Path) -> OnnxModel:
    model = load(OnnxParams(path=path.name, custom_ops=(EXTENSIONS,)), path.parent, 0)
    assert isinstance(model, OnnxModel)
    return model


def _expected(tmp_path: Path) -> np.ndarray:
    onnx.save(_without_parts(), tmp_path / "plain.onnx")
    target = Target("onnxruntime")
    artifact = BACKEND.build(load(OnnxParams(path="plain.onnx"), tmp_path, 0), target, tmp_path)  # type: ignore[arg-type]
    return BACKEND.open(artifact, target).run({"input": X})["y"]


@pytest.mark.parametrize(
    ("domain", "line"),
    [("ai.onnx.contrib", "custom_ops: [onnxruntime-extensions]"), ("my.ops", "custom_ops: [library.so]")],
)
def test_a_model_without_its_library_is_refused_with_the_line_to_add(tmp_path: Path, domain: str, line: str) -> None:
    onnx.save(_network(domain), tmp_path / "model.onnx")
    with pytest.raises(UsageError) as raised:
        load(OnnxParams(path="model.onnx"), tmp_path, 0)
    assert f"does not bring: {domain}.NegPos" in raised.value.message
    assert line in str(raised.value.hint)


def test_an_operator_in_a_branch_is_found(tmp_path: Path) -> None:
    inner = helper.make_graph([helper.make_node("Odd", ["x"], ["o"], domain="my.ops")], "b", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)])  # fmt: skip
    choice = helper.make_node("If", ["yes"], ["y"], "choose", then_branch=inner, else_branch=inner)
    value, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([choice], "g", [value], [result], [numpy_helper.from_array(np.array(True), "yes")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "model.onnx")
    with pytest.raises(UsageError, match=r"my\.ops\.Odd"):
        load(OnnxParams(path="model.onnx"), tmp_path, 0)


def test_an_operator_that_no_library_brings_is_named(tmp_path: Path, extensions: Path) -> None:
    onnx.save(_network(op="Absent"), tmp_path / "model.onnx")
    with pytest.raises(UsageError, match=r"cannot be opened with .*Absent") as raised:
        _loaded(tmp_path / "model.onnx")
    assert raised.value.hint == "it needs ai.onnx.contrib.Absent"


STAGES = {
    "quantize.static": {},
    "quantize.dynamic": {},
    "quantize.weights": {"bits": 8},
    "prune.unstructured": {"sparsity": 0.05},
    "share.kmeans": {"clusters": 128},
    "factorize.svd": {"rank": {"energy": 0.9999}, "skip_slower": False},
    "cast": {"scope": "all"},
}


@pytest.mark.parametrize("use", STAGES)
def test_stages_leave_such_nodes_as_they_are(use: str, file: Path, tmp_path: Path, extensions: Path) -> None:
    spec = techniques.get(use)
    run = context(tmp_path, digits_data())
    result = load_object(spec.implementation)(_loaded(file), spec.params(**STAGES[use]), run)
    artifact = BACKEND.build(result.model, Target("onnxruntime"), tmp_path)
    with SessionHost() as host:
        outputs = host.open(artifact, Target("onnxruntime")).run({"input": X})["y"]
    (kept,) = [node for node in onnx.load(artifact.path).graph.node if node.domain == "ai.onnx.contrib"]
    wanted = _expected(tmp_path)
    assert np.sqrt(np.mean((outputs - wanted) ** 2) / np.mean(wanted**2)) < 0.15
    assert (kept.op_type, kept.name) == ("NegPos", "parts")


def test_the_artifact_says_which_library_serves_it(file: Path, tmp_path: Path, extensions: Path) -> None:
    said = BACKEND.build(_loaded(file), Target("onnxruntime"), tmp_path).notes[-1]
    assert said.startswith("serve it with onnxruntime-extensions, by SessionOptions.register_custom_ops_library")
    assert "ai.onnx.contrib.NegPos (parts)" in said


def test_only_the_run_knows_its_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with using([tmp_path / "one.so"]):
        with using([tmp_path / "two.so", tmp_path / "one.so"]):
            assert known() == [str(tmp_path / "one.so"), str(tmp_path / "two.so")]
        assert known() == [str(tmp_path / "one.so")]
    assert VARIABLE not in os.environ


def test_a_library_that_is_none_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load(OnnxParams(path=file.name, custom_ops=("absent.so",)), tmp_path, 0)
    (tmp_path / "text.so").write_text("not a library")
    with pytest.raises(UsageError, match=r"text\.so cannot be loaded"):
        load(OnnxParams(path=file.name, custom_ops=("text.so",)), tmp_path, 0)


def test_the_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime_extensions", None)
    with pytest.raises(MissingDependencyError) as raised:
        library(EXTENSIONS, Path())
    assert raised.value.install == "pip install onnxruntime-extensions"


def test_another_library_is_another_model_to_the_cache(file: Path, tmp_path: Path) -> None:
    params = OnnxParams(path=file.name, custom_ops=("ops.so",))
    (tmp_path / "ops.so").write_text("first")
    first = fingerprint(params, tmp_path)
    (tmp_path / "ops.so").write_text("second")
    assert fingerprint(params, tmp_path) != first


def test_runtimes_that_load_no_such_library_are_refused_at_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "recipe: compressctl/v1\nmodel: {source: onnx, path: m.onnx, custom_ops: [a.so]}\nexport: [onnxruntime, openvino]\n"
    )
    done = CliRunner().invoke(app, ["validate", str(recipe)])
    assert done.exit_code == 2
    assert (
        f"{recipe}:2:49  model.custom_ops: libraries of ONNX Runtime's operators, which openvino cannot load"
        in done.output
    )


def test_a_run_scores_gates_and_times_such_a_model(shell: Shell) -> None:
    pytest.importorskip("onnxruntime_extensions")
    onnx.save(_network(), shell.folder / "model.onnx")
    (shell.folder / "recipe.yaml").write_text(
        """recipe: compressctl/v1
model: {source: onnx, path: model.onnx, custom_ops: [onnxruntime-extensions]}
data: {source: digits, calibration: 50}
stages: [{use: quantize.static, if_slower: keep, gate: {sqnr_db: 10}}]
"""
    )
    done = shell.run("apply", "recipe.yaml", "--output", "out")
    assert done.code == 0, done.err
    (part,) = shell.report("out")["backends"]
    assert part["compressed"]["latency"]["p50_ms"] > 0
    assert any("onnxruntime-extensions" in note for note in part["notes"])
    checked = shell.run("plan", "recipe.yaml", "--check")
    assert checked.code == 0, checked.err
