"""The CPU dialect: every integer kernel that ONNX Runtime has is reached, and the numbers are those of the plan."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from support.exact import exact_output

from compressctl.backends.dialects.cpu import emit
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.sites import activations, find_sites
from compressctl.numerics.int8_weights import quantize_weight

TARGET = Target("onnxruntime")


def _residual(folded: str = "Relu") -> onnx.ModelProto:
    """conv-relu-conv, an option-A style shortcut (slice, pad), add-relu, pooling, gemm: what small residual nets hold."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.normal(size=(8, 4, 3, 3), scale=0.2),
        "b1": rng.normal(size=8, scale=0.1),
        "w2": rng.normal(size=(8, 8, 3, 3), scale=0.2),
        "w3": rng.normal(size=(5, 8), scale=0.2),
        "b3": rng.normal(size=5, scale=0.1),
    }
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    integers = {"starts": [0, 0], "ends": [99, 99], "axes": [2, 3], "steps": [2, 2], "pads": [0, 2, 0, 0, 0, 2, 0, 0]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["s"], "slice"),
        helper.make_node("Pad", ["s", "pads"], ["p"], "pad"),
        helper.make_node("Add", ["c2", "p"], ["a"], "add"),
        helper.make_node("Relu", ["a"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 5])],
        [
            *(numpy_helper.from_array(value, name) for name, value in constants.items()),
            *(numpy_helper.from_array(np.array(value), name) for name, value in integers.items()),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _planned(body: onnx.ModelProto, **floats: str) -> Model:
    """A plan with one generous range for every tensor."""
    sites = find_sites(body.graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.graph.initializer}
    rectified = {site.output for site in sites if site.folded}
    plan = QuantPlan(
        activations={name: _range(rectified=name in rectified) for name in activations(sites)},
        weights={
            site.weight: quantize_weight(constants[site.weight], site.weight_axis, per_channel=True, guard="off")
            for site in sites
            if site.weight
        },
        float_nodes=floats,
    )
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 4, 8, 8)),), (TensorSpec("y", "float32", ("batch", 5)),)
    )
    return OnnxModel(body, signature, plan)


def _range(*, rectified: bool) -> TensorQuant:
    return TensorQuant("uint8", np.asarray(np.float32(0.03)), np.asarray(np.uint8(0 if rectified else 128)))


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return exact_output(model, {"x": x})


def _executed(model: onnx.ModelProto, folder: Path) -> Counter:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "executed.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "executed.onnx").graph.node)


def test_every_layer_of_a_residual_net_runs_on_integers(tmp_path: Path) -> None:
    executed = _executed(emit(_planned(_residual()), TARGET), tmp_path)
    assert executed["QLinearConv"] == 2
    assert executed["QLinearAdd"] == executed["QLinearGlobalAveragePool"] == executed["QGemm"] == 1
    assert executed["Relu"] == executed["Conv"] == executed["DequantizeLinear"] == 0
    assert executed["QuantizeLinear"] == 1


def test_the_emitted_graph_is_valid_and_near_the_float_one() -> None:
    body = _residual()
    emitted = emit(_planned(body), TARGET)
    onnx.checker.check_model(emitted, full_check=True)
    x = np.random.default_rng(1).normal(size=(4, 4, 8, 8)).astype(np.float32)
    assert np.abs(_run(emitted, x) - _run(body, x)).max() < 0.1


@settings(max_examples=15)
@given(st.sets(st.sampled_from(["conv1", "conv2", "add", "pool", "head", "slice", "pad", "flatten"])))
def test_any_nodes_may_stay_float_and_the_function_stays_near(floats: set[str]) -> None:
    body = _residual()
    emitted = emit(_planned(body, **dict.fromkeys(floats, "asked")), TARGET)
    onnx.checker.check_model(emitted, full_check=True)
    x = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
    assert np.abs(_run(emitted, x) - _run(body, x)).max() < 0.1


def test_a_node_left_in_float_keeps_its_relu(tmp_path: Path) -> None:
    executed = _executed(emit(_planned(_residual(), conv1="asked"), TARGET), tmp_path)
    assert executed["QLinearConv"] == 1
    # ONNX Runtime fuses the float convolution with its Relu.
    assert executed["FusedConv"] + executed["Conv"] == 1


def test_without_a_plan_the_float_graph_comes_back() -> None:
    body = _residual()
    model = _planned(body)
    emitted = emit(OnnxModel(body, model.signature), TARGET)
    assert emitted.SerializeToString() == body.SerializeToString()


def test_a_quantized_convolution_that_is_the_graphs_output_keeps_its_name() -> None:
    body = _residual()
    nodes = [helper.make_node("Conv", ["x", "w1", "b1"], ["y"], "conv1", strides=[2, 2], pads=[1, 1, 1, 1])]
    del body.graph.node[:], body.graph.output[:]
    body.graph.node.extend(nodes)
    body.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 8, 4, 4]))
    emitted = emit(_planned(body), TARGET)
    x = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
    assert np.abs(_run(emitted, x) - _run(body, x)).max() < 0.1


def test_codes_in_the_file_are_the_plans(tmp_path: Path) -> None:
    model = _planned(_residual())
    emitted = emit(model, TARGET)
    codes = {tensor.name: numpy_helper.to_array(tensor) for tensor in emitted.graph.initializer}
    weight = next(numpy_helper.to_array(t) for t in model.body.graph.initializer if t.name == "w2")
    scale = np.abs(weight).reshape(8, -1).max(axis=1) / 127
    assert np.array_equal(codes["w2_codes"], np.rint(weight / scale[:, None, None, None].astype(np.float32)))
    assert codes["w2_codes"].dtype == np.int8
    assert not any(tensor.name in ("w1", "w2", "w3") for tensor in emitted.graph.initializer)


def test_zero_points_of_biases_are_all_0_and_are_left_out() -> None:
    emitted = emit(_planned(_residual()), TARGET)
    types = {tensor.name: tensor.data_type for tensor in emitted.graph.initializer}
    reads = [list(node.input) for node in emitted.graph.node if node.op_type == "DequantizeLinear"]
    assert {len(names) for names in reads if types.get(names[0]) == onnx.TensorProto.INT32} == {2}
    assert {len(names) for names in reads if types.get(names[0]) == onnx.TensorProto.INT8} == {3}


@pytest.mark.parametrize("bias_shape", [(5,), (1, 5), (1,)])
def test_a_gemm_bias_of_any_shape_is_understood(bias_shape: tuple[int, ...]) -> None:
    body = _residual()
    for tensor in body.graph.initializer:
        if tensor.name == "b3":
            tensor.CopyFrom(numpy_helper.from_array(np.full(bias_shape, 0.3, np.float32), "b3"))
    x = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
    assert np.abs(_run(emit(_planned(body), TARGET), x) - _run(body, x)).max() < 0.1
