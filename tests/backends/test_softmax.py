"""Softmax along an inner axis: as arithmetic in files for ONNX Runtime that hold codes."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compressctl.backends.dialects.softmax import write_softmax
from compressctl.backends.onnx_file import to_onnx
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.execute import ActivationRecorder


def _softmax(
    axis: int, shape: tuple[int | str, ...], opset: int = 17, dtype: int = onnx.TensorProto.FLOAT
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], "softmax", axis=axis)],
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("axis", [1, -3])
def test_it_is_what_it_was(axis: int, opset: int) -> None:
    model = _softmax(axis, ("n", 5, 3, 7), opset)

    write_softmax(model)

    onnx.checker.check_model(model)
    assert "Softmax" not in _operators(model)
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 7), scale=60).astype(np.float32)
    exponential = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    found = ActivationRecorder(model, ["y"]).run({"x": x})["y"]
    np.testing.assert_allclose(found, exponential / exponential.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(_softmax(-1, (2, 5, 3, 7)), id="along the last axis"),
        pytest.param(_softmax(2, (2, 5, 3, 7)), id="one axis after it"),
        pytest.param(_softmax(1, (2, 5, 3, 1)), id="one axis after it that holds anything"),
        pytest.param(_softmax(1, (2, 5, 3, 7), opset=12), id="over all axes from there on"),
        pytest.param(_softmax(1, (2, 5, 3, 7), dtype=onnx.TensorProto.DOUBLE), id="doubles"),
    ],
)
def test_where_the_runtime_is_fast_it_stays(model: onnx.ModelProto) -> None:
    write_softmax(model)

    assert _operators(model) == ["Softmax"]


@pytest.mark.parametrize(
    ("backend", "is_quantized", "stays"),
    [("onnxruntime", True, False), ("onnxruntime", False, True), ("openvino", True, True)],
)
def test_only_compressed_files_for_onnx_runtime_have_it(backend: str, is_quantized: bool, stays: bool) -> None:
    body = _softmax(1, (1, 5, 3, 7))
    body.graph.node.insert(0, helper.make_node("Conv", ["image", "w"], ["x"], "conv"))
    body.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 2, 3, 7)))
    weight = np.ones((5, 2, 1, 1), np.float32)
    body.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    scale, zero = np.float32(1 / 127), np.uint8(0)
    activations = {name: TensorQuant("uint8", np.asarray(scale), np.asarray(zero)) for name in ("image", "x")}
    weights = {"w": TensorQuant("int8", np.full(5, scale), np.zeros(5, np.int8), axis=0)}
    plan = QuantPlan(activations, weights, {}) if is_quantized else None
    specs = [(TensorSpec(name, "float32", shape),) for name, shape in (("image", (1, 2, 3, 7)), ("y", (1, 5, 3, 7)))]

    written = to_onnx(OnnxModel(body, Signature(*specs), plan), Target(backend))

    assert ("Softmax" in _operators(written)) == stays
