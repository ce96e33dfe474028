"""What ONNX Runtime's quantize_dynamic writes, read back, and written again for the same and for another target."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from support.costs import total_macs

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.model import Model, OnnxModel
from compressctl.core.target import Target
from compressctl.graph.cost import costs
from compressctl.graph.import_qdq import Absorbed, absorb, is_quantized
from compressctl.graph.requantize import fitted
from compressctl.graph.unfold_integer import unfold_integer
from compressctl.sources.onnx_file import signature_of

PROCESSOR = Target("onnxruntime", profile="x86-vnni")
RNG = np.random.default_rng(0)
IDS = {"ids": RNG.integers(0, 20, (4, 5))}
IMAGES = {"x": RNG.normal(size=(2, 4, 6, 6)).astype(np.float32)}


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def made(
    nodes: list[onnx.NodeProto], given: onnx.ValueInfoProto, shape: list[object], constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", [given], [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def text_model() -> onnx.ModelProto:
    """An embedding, whose codes one product reads, and a product of computed numbers."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], "embedding"),
        helper.make_node("MatMul", ["e", "w1"], ["m"], "first"),
        helper.make_node("Add", ["m", "b1"], ["a"], "first_bias"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r", "axes"], ["p"], "mean", keepdims=0),
        helper.make_node("Gemm", ["p", "w2", "b2"], ["y"], "last", transB=1),
    ]
    constants = {"table": normal(20, 16), "w1": normal(16, 32), "b1": normal(32), "w2": normal(8, 32), "b2": normal(8)}
    given = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5])
    return made(nodes, given, ["batch", 8], {**constants, "axes": np.array([1], np.int64)})


def image_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1] * 4, group=2, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])
    return made(nodes, given, ["batch", 8, 3, 3], {"w": normal(8, 2, 3, 3), "b": normal(8)})


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


WEIGHTS = {
    "signed": (QuantType.QInt8, False),
    "signed, per channel": (QuantType.QInt8, True),
    "unsigned": (QuantType.QUInt8, False),
}


def quantized(model: onnx.ModelProto, folder: Path, way: str) -> onnx.ModelProto:
    onnx.save(model, folder / "float.onnx")
    weight_type, per_channel = WEIGHTS[way]
    quantize_dynamic(folder / "float.onnx", folder / "int.onnx", weight_type=weight_type, per_channel=per_channel)
    return onnx.load(folder / "int.onnx")


def as_model(proto: onnx.ModelProto, found: Absorbed) -> Model:
    return OnnxModel(found.model, signature_of(proto.graph, Path("int.onnx")), found.plan)


@pytest.mark.parametrize("way", WEIGHTS)
def test_a_file_comes_back_with_the_same_outputs(tmp_path: Path, way: str) -> None:
    proto = quantized(text_model(), tmp_path, way)
    assert is_quantized(proto)
    found = absorb(proto)
    assert not is_quantized(found.model)
    assert found.ignored == ()
    assert len(found.plan.dynamic) == 2
    again = to_onnx(as_model(proto, found), PROCESSOR)
    assert [node.op_type for node in again.graph.node].count("MatMulInteger") == 2
    before, after = run(proto, IDS), run(again, IDS)
    # The first product's input is quantized anew, at the range of what was looked up instead of the whole table's.
    assert np.abs(after - before).max() < 0.02 * np.abs(before).max()
    assert np.abs(after - before).max() < np.abs(run(text_model(), IDS) - before).max() or way != "signed"


@pytest.mark.parametrize("way", ["signed", "unsigned"])
def test_a_convolutions_codes_and_groups_survive_exactly(tmp_path: Path, way: str) -> None:
    proto = quantized(image_model(), tmp_path, way)
    found = absorb(proto)
    assert found.plan.dynamic == {"conv_quant"}
    again = to_onnx(as_model(proto, found), PROCESSOR)
    assert "ConvInteger" in {node.op_type for node in again.graph.node}
    np.testing.assert_allclose(run(again, IMAGES), run(proto, IMAGES), rtol=1e-5, atol=1e-5)


def test_weights_are_read_to_the_code(tmp_path: Path) -> None:
    original = text_model()
    proto = quantized(original, tmp_path, "signed, per channel")
    found = absorb(proto)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    read = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.model.graph.initializer}
    assert np.array_equal(read["w1"], stored["w1_quantized"] * stored["w1_scale"])
    assert found.plan.weights["w1"].axis == 1
    float_again = run(found.model, IDS)
    assert np.abs(float_again - run(original, IDS)).max() < 0.05 * np.abs(float_again).max()


def test_openvino_gets_the_weights_alone(tmp_path: Path) -> None:
    proto = quantized(text_model(), tmp_path, "signed, per channel")
    target = Target("openvino", profile="x86-vnni")
    model, _ = fitted(as_model(proto, absorb(proto)), target)
    assert model.quant is not None
    assert len(model.quant.dynamic) == 2
    operators = {node.op_type for node in to_onnx(model, target).graph.node}
    assert "MatMulInteger" not in operators
    assert "DequantizeLinear" in operators


def test_its_multiply_accumulates_are_counted(tmp_path: Path) -> None:
    for model in (text_model(), image_model()):
        proto = quantized(model, tmp_path, "signed")
        assert total_macs(proto) == total_macs(model) > 0
        integer = {"MatMulInteger", "ConvInteger"}
        assert sum(cost.macs for cost in costs(proto) if cost.op in integer) == total_macs(model)


def test_a_product_that_is_not_that_pattern_is_left_and_named() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "quantize"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["sums"], "bare"),
        helper.make_node("Cast", ["sums"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    model = made(nodes, given, ["batch", 3], {"w": np.ones((4, 3), np.int8)})
    found = unfold_integer(model)
    assert found.dynamic == frozenset()
    assert found.ignored[0].startswith("bare: ")
    assert [node.name for node in found.model.graph.node] == ["quantize", "bare", "cast"]


def test_a_float_graph_is_the_same_object() -> None:
    model = image_model()
    assert unfold_integer(model).model is model
