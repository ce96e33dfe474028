"""OpenVINO: what is delivered runs on integers, computes the same, and is explained from its own runtime model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.graphs import residual_model

from compressctl.backends.openvino import BACKEND
from compressctl.backends.params import OpenVinoParams
from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target

pytest.importorskip("openvino")


def _target(**options: Any) -> Target:
    return Target("openvino", options=OpenVinoParams(**options).model_dump(mode="json"))


def test_every_product_runs_on_integers_and_computes_what_onnxruntime_computes(tmp_path: Path) -> None:
    from compressctl.backends.onnxruntime import BACKEND as ONNXRUNTIME

    (tmp_path / "ort").mkdir()
    model = residual_model()
    artifact = BACKEND.build(model, _target(), tmp_path)
    assert [file.name for file in artifact.files] == ["model.xml", "model.bin"]
    nodes = [node for node in BACKEND.explain(artifact, _target()) if node.macs]
    assert all(node.kernel and node.kernel.lower().endswith("i8") for node in nodes), nodes
    assert [(node.name, node.precision, node.rule) for node in nodes] == [
        ("conv1", "int8", None),
        ("conv2", "int8", None),
    ]
    inputs = {"x": np.random.default_rng(0).normal(0, 1, (4, 8, 6, 6)).astype(np.float32)}
    mine = BACKEND.open(artifact, _target()).run(inputs)["y"]
    target = Target("onnxruntime", profile="x86-vnni")
    other = ONNXRUNTIME.open(ONNXRUNTIME.build(model, target, tmp_path / "ort"), target).run(inputs)["y"]
    # OpenVINO clips where it quantizes, which is not at the same places: a few values at the ends of ranges differ.
    assert np.mean(np.abs(mine - other) > 2 * 0.06) < 0.02
    weights = {entry.dtype: entry for entry in BACKEND.weights(artifact)}
    assert weights["int8"].elements == 2 * 8 * 8 * 9


def test_a_folder_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "4 bits, symmetric"
    folder.mkdir()
    artifact = BACKEND.build(residual_model(), _target(), folder)
    inputs = {"x": np.zeros((1, 8, 6, 6), np.float32)}
    assert np.isfinite(BACKEND.open(artifact, _target()).run(inputs)["y"]).all()


def test_a_node_in_float_has_a_reason(tmp_path: Path) -> None:
    model = residual_model(float_nodes={"conv2": "the gate gave it back"})
    artifact = BACKEND.build(model, _target(), tmp_path)
    nodes = {node.name: node for node in BACKEND.explain(artifact, _target())}
    assert nodes["conv1"].precision == "int8"
    assert (nodes["conv2"].precision, nodes["conv2"].rule) == ("float32", "the gate gave it back")


@pytest.mark.parametrize("options", [{"performance_hint": "throughput", "streams": 2}, {"precision": "bfloat16"}])
def test_serving_options_reach_the_runtime(tmp_path: Path, options: dict[str, Any]) -> None:
    from compressctl.backends.openvino.session import compile_model

    artifact = BACKEND.build(residual_model(), _target(), tmp_path)
    # One stream needs a thread of its own at least.
    compiled, _ = compile_model(artifact.path, replace(_target(**options), threads=2))
    if "streams" in options:
        assert compiled.get_property("NUM_STREAMS") == 2
    else:  # a processor without it computes in float32, whatever is asked
        import openvino

        has_it = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        assert ("bf" in str(compiled.get_property("INFERENCE_PRECISION_HINT")).lower()) == has_it


def test_the_cache_folder_is_used(tmp_path: Path) -> None:
    artifact = BACKEND.build(residual_model(), _target(), tmp_path)
    BACKEND.open(artifact, _target(cache_dir=str(tmp_path / "cache")))
    assert list((tmp_path / "cache").glob("*.blob"))


def test_wrong_inputs_and_broken_files_are_one_readable_error(tmp_path: Path) -> None:
    artifact = BACKEND.build(residual_model(), _target(), tmp_path)
    session = BACKEND.open(artifact, _target())
    with pytest.raises(UsageError, match="takes x but was given z"):
        session.run({"z": np.zeros((1, 8, 6, 6), np.float32)})
    with pytest.raises(UsageError, match="the model takes float32"):
        session.run({"x": np.zeros((1, 8, 6, 6))})
    with pytest.raises(StageError, match=r"model\.xml"):
        session.run({"x": np.zeros((1, 7, 6, 6), np.float32)})
    artifact.path.write_text("<net>")
    with pytest.raises(StageError, match=r"model\.xml"):
        BACKEND.open(artifact, _target())
    with pytest.raises(UsageError, match="no file"):
        BACKEND.open(type(artifact)("openvino", tmp_path / "none.xml", ()), _target())


def test_an_operator_that_openvino_does_not_know_is_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("StringNormalizer", ["x"], ["y"], "odd")],
        "g",
        [value("x", TensorProto.STRING, ["n"])],
        [value("y", TensorProto.STRING, ["n"])],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(body)
    signature = Signature((TensorSpec("x", "object", ("n",)),), (TensorSpec("y", "object", ("n",)),))
    with pytest.raises(StageError, match="StringNormalizer"):
        BACKEND.build(OnnxModel(body, signature), _target(), tmp_path)


def test_nobody_is_told_about_the_use_of_openvino() -> None:
    """Its package forks a process that reports to its makers, which also keeps pipes open and hung our measuring."""
    import sys

    assert sys.modules["openvino_telemetry"] is None


@pytest.mark.parametrize("bits", [4, 8])
def test_groups_that_do_not_fill_the_last_block_are_filled(tmp_path: Path, bits: int) -> None:
    """OpenVINO refuses a block that reaches over the end: 48 columns of a table and of a product's inputs in blocks of 32."""
    rng = np.random.default_rng(0)
    table, weight = (rng.normal(0, 1, shape).astype(np.float32) for shape in ((20, 48), (48, 16)))

    def blocks(shape: tuple[int, int], axis: int) -> TensorQuant:
        scale = np.full(shape, 1.0 if bits == 4 else 0.05, np.float32)
        return TensorQuant(f"uint{bits}", scale, np.full(shape, 1 << (bits - 1)).astype(f"uint{bits}"), axis, 32)

    plan = {"table": blocks((20, 2), 1), "w": blocks((2, 16), 0)}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["words"], "lookup"),
            helper.make_node("MatMul", ["words", "w"], ["y"], "product"),
        ],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 16])],
        [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(weight, "w")],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    signature = Signature((TensorSpec("ids", "int64", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 3, 16)),))
    target = _target(integer_activations=False)
    artifact = BACKEND.build(OnnxModel(body, signature, QuantPlan({}, plan)), target, tmp_path)
    ids = rng.integers(0, 20, (4, 3))
    found = BACKEND.open(artifact, target).run({"ids": ids})["y"]
    step = 1.0 if bits == 4 else 0.05
    half, least = step / 2, -(1 << (bits - 1)) * step
    rounded = [np.clip(np.rint(part / step) * step, least, -least - step) for part in (table, weight)]
    np.testing.assert_allclose(found, rounded[0][ids] @ rounded[1], rtol=1e-3, atol=half * 1e-2)


def test_an_input_behind_a_cast_that_does_nothing_keeps_its_name(tmp_path: Path) -> None:
    weight = np.eye(4, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["a_cast"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["a_cast", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = Signature((TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 4)),))
    x = np.ones((2, 4), np.float32)
    for storage in ("plain", "compressed"):
        (tmp_path / storage).mkdir()
        artifact = BACKEND.build(OnnxModel(body, spec), _target(storage=storage), tmp_path / storage)
        assert np.array_equal(BACKEND.open(artifact, _target()).run({"x": x})["y"], x)
        with pytest.raises(UsageError, match="was given"):
            BACKEND.open(artifact, _target()).run({"z": x})


def test_what_is_not_timed_computes_on_as_many_threads_as_openmp_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO does not read the variable that a zoo sets for its jobs."""
    from compressctl.backends.openvino.session import serving_config

    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert serving_config(replace(_target(), threads=0))["INFERENCE_NUM_THREADS"] == 3
    assert serving_config(replace(_target(), threads=2))["INFERENCE_NUM_THREADS"] == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert "INFERENCE_NUM_THREADS" not in serving_config(replace(_target(), threads=0))


POOLED = """
import torch
from torch import nn


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


def make():
    torch.manual_seed(0)
    return Both()
"""


def test_pooled_maxima_beside_means_keep_their_values(tmp_path: Path) -> None:
    """A classifier that reads both: OpenVINO 2026.4 rounds the maxima to whole numbers where a quantization stands behind their concatenation."""
    from compressctl import api

    (tmp_path / "net.py").write_text(POOLED)
    (tmp_path / "recipe.yaml").write_text(
        "recipe: compressctl/v1\nmodel: {source: python, factory: 'net.py:make', input_shape: [1, 8, 8]}\ndata: {source: digits}\n"
        "target: {backend: openvino}\nstages:\n  - {use: quantize.static, if_slower: keep}\n"
    )
    report = api.apply(tmp_path / "recipe.yaml", output=tmp_path / "out", measure="untimed").report
    fidelity = report.backends[0].compressed.fidelity
    assert fidelity is not None
    assert (fidelity.outputs[0].sqnr_db or 0) > 30
