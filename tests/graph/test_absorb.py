"""Q/DQ files read back: our own dialects, other tools' layouts, and that reading changes no result."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from support.exact import exact_output
from support.graphs import residual_model

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.float16 import to_half, to_single
from compressctl.graph.import_qdq import absorb, is_quantized
from compressctl.graph.qoperator_to_qdq import unfold_qlinear
from compressctl.graph.requantize import fitted

PROCESSOR = Target("onnxruntime", profile="x86-vnni")
INPUTS = {"x": np.random.default_rng(3).normal(0, 1, (4, 8, 6, 6)).astype(np.float32)}


def _run(proto: onnx.ModelProto) -> np.ndarray:
    return exact_output(proto, INPUTS)


def test_our_own_file_comes_back_as_the_same_file() -> None:
    model = residual_model()
    written = to_onnx(model, PROCESSOR)
    found = absorb(written)
    assert not is_quantized(found.model)
    assert found.ignored == ()
    assert len(found.plan.activations) == 3
    again = to_onnx(OnnxModel(found.model, model.signature, found.plan), PROCESSOR)
    assert np.array_equal(_run(again), _run(written))


def test_a_product_in_float_leaves_its_neighbours_in_integers() -> None:
    """The last of two products is in float: nothing wants the first one's output in integers."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((rng.normal(0, 0.2, shape)).astype(np.float32), name)
        for name, shape in (("w", (32, 16)), ("v", (16, 4)), ("b", (16,)))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["t"], "first"),
        helper.make_node("MatMul", ["t", "v"], ["y"], "last"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 32), ("y", 4))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    plan = QuantPlan(
        {"x": TensorQuant("uint8", np.array(0.05, np.float32), np.array(128, np.uint8))},
        {"w": TensorQuant("int8", np.array(0.01, np.float32), np.array(0, np.int8))},
        {"last": "asked for"},
    )
    written = to_onnx(OnnxModel(body, Signature((), ()), plan), PROCESSOR)
    found = absorb(written)
    assert set(found.plan.float_nodes) == {"last"}
    again = to_onnx(OnnxModel(found.model, Signature((), ()), found.plan), PROCESSOR)
    kinds = [[tensor.data_type for tensor in proto.graph.initializer] for proto in (written, again)]
    assert sorted(kinds[0]) == sorted(kinds[1])
    assert TensorProto.INT8 in kinds[1]


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_a_tensorrt_file_serves_a_processor(precision: str) -> None:
    model = residual_model()
    written = to_onnx(model, Target("tensorrt", options={"precision": precision}))
    if precision == "float16":
        onnx.version_converter.convert_version(written, 19)
        written, _ = to_half(onnx.version_converter.convert_version(written, 19))
    found = absorb(written)
    assert not is_quantized(found.model)
    assert not any(tensor.data_type == TensorProto.FLOAT16 for tensor in found.model.graph.initializer)
    again = to_onnx(OnnxModel(found.model, model.signature, found.plan), PROCESSOR)
    assert np.abs(_run(again) - _run(written)).max() < 0.03 * _run(written).max()
    # The convolution whose output stands before a Relu has all ranges; the other's output was never given one.
    assert sum(node.op_type == "QuantizeLinear" for node in again.graph.node) >= 2


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._left = [{"x": INPUTS["x"] * factor} for factor in (0.5, 1.0)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("dtype", [QuantType.QUInt8, QuantType.QInt8])
@pytest.mark.parametrize("add_pairs", [False, True])
def test_onnxruntimes_own_quantizer_is_understood(tmp_path: Path, dtype: QuantType, add_pairs: bool) -> None:
    model = residual_model()
    source, quantized = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(model.body, source)
    quantize_static(
        source,
        quantized,
        _Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=dtype,
        weight_type=QuantType.QInt8,
        extra_options={"AddQDQPairToWeight": add_pairs},
    )
    theirs = onnx.load(quantized)
    found = absorb(theirs)
    assert not is_quantized(found.model)
    again = to_onnx(OnnxModel(found.model, model.signature, found.plan), PROCESSOR)
    assert sum(node.op_type == "QuantizeLinear" for node in again.graph.node) >= 3
    step = float(max(np.max(quant.scale) for quant in found.plan.activations.values()))
    assert np.abs(_run(again) - _run(theirs)).max() <= 2.5 * step


def _quantized(folder: Path, **settings: object) -> onnx.ModelProto:
    source, quantized = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(residual_model().body, source)
    quantize_static(source, quantized, _Reader(), weight_type=QuantType.QInt8, **settings)
    return onnx.load(quantized)


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_operator_format_says_the_same_as_q_dq(tmp_path: Path, per_channel: bool) -> None:
    theirs = _quantized(
        tmp_path, quant_format=QuantFormat.QOperator, activation_type=QuantType.QUInt8, per_channel=per_channel
    )
    assert any(node.op_type == "QLinearConv" for node in theirs.graph.node)
    assert is_quantized(theirs)
    found = absorb(theirs)
    assert found.ignored == ()
    assert not is_quantized(found.model)
    assert len(found.plan.weights) == 2
    again = to_onnx(OnnxModel(found.model, residual_model().signature, found.plan), PROCESSOR)
    step = float(max(np.max(quant.scale) for quant in found.plan.activations.values()))
    assert np.abs(_run(again) - _run(theirs)).max() <= 2.5 * step


def test_every_operator_of_that_format_is_unfolded_into_the_same_function() -> None:
    value, rng = helper.make_tensor_value_info, np.random.default_rng(0)
    constants = {
        "s": np.float32(0.03), "z": np.uint8(120), "t": np.float32(0.05), "u": np.uint8(3),
        "w": rng.integers(-100, 100, (24, 5)).astype(np.int8), "ws": np.float32(0.01), "wz": np.int8(0),
        "b": rng.integers(-900, 900, 5).astype(np.int32), "m": rng.integers(-100, 100, (5, 5)).astype(np.int8),
    }  # fmt: skip
    microsoft = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "enter"),
        helper.make_node("QLinearSigmoid", ["q", "s", "z", "t", "u"], ["a"], "sigmoid", **microsoft),
        helper.make_node("QLinearLeakyRelu", ["q", "s", "z", "s", "z"], ["l"], "leaky", alpha=0.1, **microsoft),
        helper.make_node("QLinearMul", ["a", "t", "u", "l", "s", "z", "s", "z"], ["p"], "times", **microsoft),
        helper.make_node("QLinearAdd", ["p", "s", "z", "q", "s", "z", "t", "z"], ["c"], "plus", **microsoft),
        helper.make_node("QLinearConcat", ["s", "z", "c", "t", "z", "l", "s", "z"], ["j"], "join", axis=1, **microsoft),
        helper.make_node("QLinearAveragePool", ["j", "s", "z", "s", "z"], ["v"], "mean", kernel_shape=[2, 2], strides=[2, 2], **microsoft),
        helper.make_node("Flatten", ["v"], ["f"], "flat"),
        helper.make_node("QGemm", ["f", "s", "z", "w", "ws", "wz", "b", "t", "z"], ["g"], "gemm", **microsoft),
        helper.make_node("QLinearMatMul", ["g", "t", "z", "m", "ws", "wz", "t", "z"], ["o"], "product"),
        helper.make_node("DequantizeLinear", ["o", "t", "z"], ["y"], "leave"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 3, 4, 4])], [value("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    theirs = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    unfolded = unfold_qlinear(theirs)
    assert {node.op_type for node in unfolded.graph.node} == {
        "QuantizeLinear", "DequantizeLinear", "Sigmoid", "LeakyRelu", "Mul", "Add", "Concat", "AveragePool", "Flatten",
        "Gemm", "MatMul",
    }  # fmt: skip
    inputs = {"x": rng.normal(0, 1, (2, 3, 4, 4)).astype(np.float32)}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    one, other = (
        onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, inputs)[0]
        for proto in (theirs, unfolded)
    )
    # A step of 0.05 or two, where a half is rounded differently on the way; a wrong scale or weight is off by far more.
    assert np.abs(one - other).max() <= 0.1 + 1e-6
    assert np.mean(np.abs(one - other)) < 0.03 < 0.02 * np.ptp(one)


def test_an_operator_that_computes_on_codes_keeps_them() -> None:
    value = helper.make_tensor_value_info
    constants = {"s": np.float32(0.1), "z": np.uint8(128), "w": np.ones((4, 2), np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("MatMulInteger", ["q", "w"], ["i"], "integers"),
        helper.make_node("Cast", ["i"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [2, 4])], [value("y", TensorProto.FLOAT, [2, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    theirs = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    found = absorb(theirs)
    assert found.ignored == ("integers: MatMulInteger computes on the codes themselves",)
    onnx.checker.check_model(found.model)
    x = {"x": np.random.default_rng(0).normal(0, 1, (2, 4)).astype(np.float32)}
    one, other = (
        onnxruntime.InferenceSession(proto.SerializeToString()).run(None, x)[0] for proto in (theirs, found.model)
    )
    assert np.array_equal(one, other)


def test_a_folded_relu_comes_back_as_a_node() -> None:
    found = absorb(to_onnx(residual_model(), PROCESSOR))
    assert sum(node.op_type == "Relu" for node in found.model.graph.node) == 2


def test_a_scale_that_is_computed_is_left_and_said() -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Abs", ["s"], ["scale"], "abs"),
        helper.make_node("QuantizeLinear", ["x", "scale", "z"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "z"], ["y"], "dequantize"),
    ]
    tensors = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(3), "z")]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])], tensors
    )
    found = absorb(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert len(found.ignored) == 2
    onnx.checker.check_model(found.model)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(1e-3, 50.0))
def test_half_and_back_is_the_same_within_rounding(seed: int, size: float) -> None:
    model = residual_model()
    for tensor in model.body.graph.initializer:
        if tensor.name == "b1":
            values = np.random.default_rng(seed).normal(0, size, 8).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, "b1"))
    half, kept = to_half(model.body)
    assert kept == {}
    back = to_single(half)
    onnx.checker.check_model(half, full_check=True)
    onnx.checker.check_model(back, full_check=True)
    wanted = _run(model.body)
    assert np.abs(_run(half) - wanted).max() <= 0.01 * np.abs(wanted).max() + 0.02
    assert np.abs(_run(back) - wanted).max() <= 0.01 * np.abs(wanted).max() + 0.02


def test_what_float16_cannot_hold_stays_float32_with_the_reason() -> None:
    model = residual_model()
    for tensor in model.body.graph.initializer:
        if tensor.name == "b1":
            tensor.CopyFrom(numpy_helper.from_array(np.full(8, 1e6, np.float32), "b1"))
    half, kept = to_half(model.body, single=("conv2",))
    assert kept == {"conv1": "b1 is beyond float16's range", "conv2": "asked for"}
    onnx.checker.check_model(half, full_check=True)


def _read_twice(inner: list[onnx.NodeProto], constants: dict[str, np.ndarray], width: int = 8) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        inner,
        "twice",
        [value("x", TensorProto.FLOAT, ["batch", width])],
        [value("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _codes(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 100, (8, 8)).astype(np.int8)


def _same_function(proto: onnx.ModelProto) -> None:
    x = np.random.default_rng(5).standard_normal((6, 8)).astype(np.float32)

    def outputs(model: onnx.ModelProto) -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found: np.ndarray = session.run(None, {"x": x})[0]
        return found

    found = absorb(proto)
    assert not is_quantized(found.model)
    assert np.allclose(outputs(found.model), outputs(proto), rtol=1e-4, atol=1e-4)
    specs = tuple(TensorSpec(name, "float32", ("batch", 8)) for name in "xy")
    model = OnnxModel(found.model, Signature(specs[:1], specs[1:]), found.plan)
    for target in (PROCESSOR, Target("openvino", profile="x86-vnni"), Target("tensorrt", profile="nvidia-sm80")):
        again = to_onnx(fitted(model, target)[0], target)
        assert np.allclose(outputs(again), outputs(proto), rtol=0.02, atol=0.02 * np.abs(outputs(proto)).max())


def test_codes_that_stand_for_two_weights_are_two_constants() -> None:
    """Square, so that nothing but the numbers tells the axis of the scales; and a tensor that the first name would take."""
    make, scales = helper.make_node, np.linspace(0.001, 0.02, 8).astype(np.float32)
    nodes = [
        make("DequantizeLinear", ["w_codes", "s"], ["left"], "dq1", axis=0),
        make("DequantizeLinear", ["w_codes", "s"], ["right"], "dq2", axis=-1),
        make("DequantizeLinear", ["w_quantized", "s"], ["third"], "dq3", axis=1),
        make("MatMul", ["x", "left"], ["w"], "one"),
        make("Gemm", ["w", "right"], ["b"], "two", transB=1),
        make("MatMul", ["b", "third"], ["c"], "three"),
        make("Gemm", ["c", "left"], ["y"], "four", transB=1),
    ]
    _same_function(_read_twice(nodes, {"w_codes": _codes(0), "w_quantized": _codes(1), "s": scales}))


def test_a_float_weight_that_is_quantized_twice_is_two_constants() -> None:
    make, scales = helper.make_node, np.linspace(0.002, 0.02, 8).astype(np.float32)
    values = (np.random.default_rng(2).standard_normal((8, 8)) * 0.2).astype(np.float32)
    nodes = []
    for name, axis in (("left", 0), ("right", 1)):
        nodes += [
            make("QuantizeLinear", ["w", "s", "z"], [f"{name}_q"], f"{name}_Q", axis=axis),
            make("DequantizeLinear", [f"{name}_q", "s", "z"], [name], f"{name}_DQ", axis=axis),
        ]
    nodes += [make("MatMul", ["x", "right"], ["a"], "one"), make("Gemm", ["a", "left"], ["y"], "two", transB=1)]
    proto = _read_twice(nodes, {"w": values, "s": scales, "z": np.zeros(8, np.int8)})
    found = absorb(proto)
    assert sorted(quant.axis or 0 for quant in found.plan.weights.values()) == [0, 1]
    assert len(found.plan.weights) == 2


def _branches(then_node: onnx.NodeProto, else_node: onnx.NodeProto, output: str) -> onnx.NodeProto:
    bodies = [
        helper.make_graph(
            [node], "branch", [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, ["batch", 8])]
        )
        for node in (then_node, else_node)
    ]
    return helper.make_node("If", ["always"], [output], "if", then_branch=bodies[0], else_branch=bodies[1])


def test_a_branch_reads_what_stands_for_a_dequantized_tensor() -> None:
    make = helper.make_node
    nodes = [
        make("QuantizeLinear", ["x", "s", "z"], ["q"], "Q"),
        make("DequantizeLinear", ["q", "s", "z"], ["d"], "DQ"),
        _branches(make("Add", ["d", "d"], ["t"], "double"), make("Neg", ["d"], ["e"], "negate"), "y"),
    ]
    constants = {"s": np.float32(0.01), "z": np.uint8(128), "always": np.array(True)}
    proto = _read_twice(nodes, {name: np.asarray(value) for name, value in constants.items()})
    found = absorb(proto)
    onnx.checker.check_model(found.model, full_check=True)
    assert not is_quantized(found.model)
    x = np.random.default_rng(5).standard_normal((6, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(found.model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": x})[0], x + x)


def test_a_branch_reads_an_output_that_gets_its_name_back() -> None:
    """What stands for a dequantized output of the graph is called like it, in the branches that read it too."""
    make = helper.make_node
    nodes = [
        make("Abs", ["x"], ["a"], "abs"),
        make("QuantizeLinear", ["a", "s", "z"], ["q"], "Q"),
        make("DequantizeLinear", ["q", "s", "z"], ["y"], "DQ"),
        _branches(make("Add", ["a", "a"], ["t"], "double"), make("Neg", ["y"], ["e"], "negate"), "other"),
    ]
    constants = {"s": np.float32(0.02), "z": np.uint8(0), "always": np.array(True)}
    proto = _read_twice(nodes, {name: np.asarray(value) for name, value in constants.items()})
    proto.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", 8]))
    onnx.checker.check_model(absorb(proto).model, full_check=True)


def test_codes_that_a_branch_computes_on_are_kept() -> None:
    make = helper.make_node
    nodes = [
        make("QuantizeLinear", ["x", "s", "z"], ["q"], "Q"),
        _branches(make("Cast", ["q"], ["t"], "codes", to=TensorProto.FLOAT), make("Neg", ["x"], ["e"], "negate"), "y"),
    ]
    constants = {"s": np.float32(0.1), "z": np.uint8(128), "always": np.array(True)}
    found = absorb(_read_twice(nodes, {name: np.asarray(value) for name, value in constants.items()}))
    assert found.ignored == ("if: If computes on the codes themselves",)
    onnx.checker.check_model(found.model, full_check=True)
