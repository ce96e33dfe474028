"""storage: compressed, in the runtimes themselves: the same outputs to the last bit, nothing left to compute after loading."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError
from support.few_values import FORMS, four_bit_codes, model

from compressctl.backends.params import OpenVinoParams
from compressctl.core.backend import Artifact, backends
from compressctl.core.model import Model
from compressctl.core.registry import load
from compressctl.core.target import Target
from compressctl.graph.pack_constants import Folds, pack_constants

X = {"x": np.random.default_rng(0).normal(size=(3, 16, 6, 6)).astype(np.float32)}
RUNTIMES = ("onnxruntime", "openvino")


def _target(backend: str, storage: str) -> Target:
    more: Mapping[str, object] = {"precision": "float32"} if backend == "tensorrt" else {}
    return Target(backend, threads=1, profile="x86-vnni", options={"storage": storage, **more})


def _built(model: Model, backend: str, storage: str, folder: Path) -> tuple[Artifact, np.ndarray]:
    folder = folder / storage
    folder.mkdir()
    implementation = load(backends.get(backend).implementation)
    artifact = implementation.build(model, _target(backend, storage), folder)
    return artifact, implementation.open(artifact, _target(backend, storage)).run(X)["y"]


def _bytes(artifact: Artifact) -> int:
    return sum(path.stat().st_size for path in artifact.files if path.suffix != ".py")


EACH_KIND_OF_NODE = ("forty", "sparse", "sparse codes", "by channel")
"""OpenVINO takes a second to compile anything: the forms that between them use every operator."""


@pytest.mark.parametrize(
    ("backend", "form"),
    [
        *((backend, form) for backend in ("onnxruntime", "tensorrt") for form in FORMS),
        *(("openvino", form) for form in EACH_KIND_OF_NODE),
    ],
)
def test_outputs_are_those_of_the_plain_file(form: str, backend: str, tmp_path: Path) -> None:
    plain, expected = _built(model(form), backend, "plain", tmp_path)
    packed, found = _built(model(form), backend, "compressed", tmp_path)
    assert np.array_equal(found, expected)
    assert _bytes(packed) < 0.5 * _bytes(plain)
    assert any("unpacked once, at loading" in note for note in packed.notes)


@pytest.mark.parametrize("form", FORMS)
def test_onnx_runtime_folds_everything_at_its_first_level(form: str, tmp_path: Path) -> None:
    packed, _ = _built(model(form), "onnxruntime", "compressed", tmp_path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    onnxruntime.InferenceSession(str(packed.path), options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node] == ["Conv", "Relu", "Conv"]


@pytest.mark.parametrize("form", EACH_KIND_OF_NODE)
def test_openvino_folds_everything(form: str, tmp_path: Path) -> None:
    proto, _ = pack_constants(model(form).body, Folds(float64=False))
    onnx.save(proto, tmp_path / "packed.onnx")
    onnx.save(model(form).body, tmp_path / "plain.onnx")
    assert _executed(tmp_path / "packed.onnx") == _executed(tmp_path / "plain.onnx")


def _executed(path: Path) -> list[str]:
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
    return sorted(node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops())


@pytest.mark.parametrize("backend", RUNTIMES)
def test_packed_codes_still_meet_integer_kernels(backend: str, tmp_path: Path) -> None:
    plain, expected = _built(four_bit_codes(), backend, "plain", tmp_path)
    packed, found = _built(four_bit_codes(), backend, "compressed", tmp_path)
    implementation = load(backends.get(backend).implementation)
    executed = {node.name: node for node in implementation.explain(packed, _target(backend, "compressed")) if node.macs}
    before = {node.name: node for node in implementation.explain(plain, _target(backend, "plain")) if node.macs}
    assert np.array_equal(found, expected)
    assert {name: (node.precision, node.macs) for name, node in executed.items()} == {
        name: ("int8", node.macs) for name, node in before.items()
    }
    (codes,) = [entry for entry in implementation.weights(packed) if entry.dtype == "int8 (packed)"]
    assert codes.stored_bytes < 0.6 * codes.elements


@pytest.mark.parametrize("backend", RUNTIMES)
def test_nothing_to_pack_is_said(backend: str, tmp_path: Path) -> None:
    packed, _ = _built(model("dense"), backend, "compressed", tmp_path)
    assert any("made nothing smaller" in note for note in packed.notes)


def test_one_file_serves_both_runtimes(tmp_path: Path) -> None:
    packed, expected = _built(model("sparse codes"), "openvino", "compressed", tmp_path)
    session = onnxruntime.InferenceSession(str(packed.path), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, X)[0], expected, atol=1e-4)


def test_what_only_an_ir_can_hold_is_refused() -> None:
    with pytest.raises(ValidationError, match="cannot hold float16_constants"):
        OpenVinoParams(storage="compressed", float16_constants=True)


def test_a_products_weight_is_folded_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.choice(rng.normal(size=16), (96, 64)) * np.exp(rng.normal(size=64))).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "product",
        [value("x", TensorProto.FLOAT, ["batch", 96])],
        [value("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    packed, ledger = pack_constants(plain, Folds(float64=False))
    assert len(ledger) == 1
    for name, proto in (("plain", plain), ("packed", packed)):
        onnx.save(proto, tmp_path / f"{name}.onnx")
    assert set(_executed(tmp_path / "packed.onnx")) <= set(_executed(tmp_path / "plain.onnx"))
    x = rng.normal(size=(5, 96)).astype(np.float32)
    sessions = [onnxruntime.InferenceSession(proto.SerializeToString()) for proto in (plain, packed)]
    assert np.array_equal(*(session.run(None, {"x": x})[0] for session in sessions))


def test_short_names_inside_leave_what_the_file_computes(tmp_path: Path) -> None:
    implementation = load(backends.get("onnxruntime").implementation)
    sizes, outputs = [], []
    for names in ("kept", "short"):
        target = Target("onnxruntime", threads=1, options={"names": names})
        (tmp_path / names).mkdir()
        artifact = implementation.build(model("forty"), target, tmp_path / names)
        outputs.append(implementation.open(artifact, target).run(X)["y"])
        sizes.append(_bytes(artifact))
    assert np.array_equal(*outputs)
    assert sizes[1] < sizes[0]
