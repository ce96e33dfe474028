"""Small graphs with a quantization plan."""

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant


def residual_model(float_nodes: Mapping[str, str] | None = None) -> Model:
    """x -> Conv -> Relu -> Conv, + Relu: with a plan in the processor's asymmetric terms."""
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32) for name in ("w1", "w2")}
    weights["w2"][0] *= 1e-6
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a"], "add"),
        helper.make_node("Relu", ["a"], ["y"], "relu2"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, ["batch", 8, 6, 6])],
        [value("y", TensorProto.FLOAT, ["batch", 8, 6, 6])],
        [numpy_helper.from_array(array, name) for name, array in {**weights, "b1": np.ones(8, np.float32)}.items()],
    )
    body = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=10
    )

    def activation(scale: float, point: int) -> TensorQuant:
        return TensorQuant("uint8", np.asarray(scale, np.float32), np.asarray(point, np.uint8))

    def weight(values: np.ndarray) -> TensorQuant:
        scale = (np.abs(values).reshape(8, -1).max(axis=1) / 127).astype(np.float32)
        return TensorQuant("int8", scale, np.zeros(8, np.int8), axis=0)

    plan = QuantPlan(
        {
            "x": activation(8 / 255, 128),
            "r1": activation(8 / 255, 0),
            "c2": activation(12 / 255, 128),
            "y": activation(0.06, 0),
        },
        {name: weight(values) for name, values in weights.items()},
        dict(float_nodes or {}),
    )
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 8, 6, 6)),), (TensorSpec("y", "float32", ("batch", 8, 6, 6)),)
    )
    return OnnxModel(body, signature, plan)
