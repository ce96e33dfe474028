"""x * sigmoid(x) that is left in float between integers: one operator of ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.execute import ActivationRecorder

_CODES = TensorQuant("uint8", np.asarray(np.float32(0.05)), np.asarray(np.uint8(128)))


def _model(gate: list[str], floats: tuple[str, ...], *, outputs: tuple[str, ...] = ("y",)) -> OnnxModel:
    shape = [1, 4, 3, 3]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
            helper.make_node("Sigmoid", ["c"], ["s"], "sigmoid"),
            helper.make_node("Mul", gate, ["g"], "gate"),
            helper.make_node("Conv", ["g", "w"], ["y"], "reader"),
        ],
        "swish",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in outputs],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1), "w")],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    weights = {"w": TensorQuant("int8", np.full(4, 1 / 127, np.float32), np.zeros(4, np.int8), axis=0)}
    plan = QuantPlan(dict.fromkeys(("x", "c", "s", "g", "y"), _CODES), weights, dict.fromkeys(floats, "float"))
    specs = [tuple(TensorSpec(name, "float32", (1, 4, 3, 3)) for name in names) for names in (("x",), outputs)]
    return OnnxModel(body, Signature(*specs), plan)


@pytest.mark.parametrize("gate", [["c", "s"], ["s", "c"]])
def test_it_is_one_operator_of_the_same_values(gate: list[str]) -> None:
    written = to_onnx(_model(gate, ("sigmoid", "gate")), Target("onnxruntime"))

    operators = [node.op_type for node in written.graph.node]
    assert "QuickGelu" in operators
    assert not {"Sigmoid", "Mul"} & set(operators)
    x = np.random.default_rng(0).uniform(-6, 6, size=(1, 4, 3, 3)).astype(np.float32)
    codes = 0.05 * np.clip(np.round(x / 0.05), -128, 127)
    found = ActivationRecorder(written, ["g"]).run({"x": x})["g"]
    np.testing.assert_allclose(found, codes / (1 + np.exp(-codes)), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "backend"),
    [
        pytest.param(_model(["c", "s"], ()), "onnxruntime", id="on integers"),
        pytest.param(_model(["x", "s"], ("sigmoid", "gate")), "onnxruntime", id="of another tensor"),
        pytest.param(_model(["c", "s"], ("sigmoid", "gate"), outputs=("y", "s")), "onnxruntime", id="whose sigmoid is read too"),
        pytest.param(_model(["c", "s"], ("sigmoid", "gate")), "openvino", id="for another runtime"),
    ],
)  # fmt: skip
def test_anything_else_stays(model: OnnxModel, backend: str) -> None:
    operators = [node.op_type for node in to_onnx(model, Target(backend)).graph.node]

    assert {"Sigmoid", "Mul"} <= set(operators)
