"""A graph with tensors written in every way that ONNX has."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(64, 48)).astype(np.float32)
SPARSE = np.where(RNG.random((64, 48)) < 0.05, np.float32(0.25), np.float32(0))


def model_of(tensors: list[onnx.TensorProto], nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    body = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(
        body, "net", [value("x", TensorProto.FLOAT, ["n"])], [value("y", TensorProto.FLOAT, ["n"])], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def stored(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def every_kind() -> list[onnx.TensorProto]:
    """Every way in which ONNX writes numbers."""
    return [
        numpy_helper.from_array(WEIGHT, "raw"),
        helper.make_tensor("floats", TensorProto.FLOAT, (40, 48), WEIGHT[:40].ravel().tolist()),
        helper.make_tensor("doubles", TensorProto.DOUBLE, (8,), RNG.normal(size=8).tolist()),
        helper.make_tensor("int64s", TensorProto.INT64, (4,), [-1, 0, 3, 2**40]),
        helper.make_tensor("int32s", TensorProto.INT32, (3,), [-5, 6, 7]),
        helper.make_tensor("int8s", TensorProto.INT8, (3,), [-5, 6, 127]),
        helper.make_tensor("uint64s", TensorProto.UINT64, (1,), [2**63]),
        helper.make_tensor("texts", TensorProto.STRING, (2,), [b"a", b"bc"]),
        numpy_helper.from_array(WEIGHT.astype(np.float16), "half"),
        numpy_helper.from_array(RNG.integers(-128, 128, (32, 96)).astype(np.int8), "int8"),
        numpy_helper.from_array(np.arange(700, dtype=np.int64), "long"),
        numpy_helper.from_array(np.float32(3.5), "scalar"),
        numpy_helper.from_array(np.zeros((0, 4), np.float32), "empty"),
        numpy_helper.from_array(RNG.random(9) < 0.5, "bools"),
        helper.make_tensor("int4", TensorProto.INT4, (64, 96), RNG.integers(0, 256, 3072).astype(np.uint8).tobytes(), raw=True),
        helper.make_tensor("bf16", TensorProto.BFLOAT16, (40, 48), WEIGHT[:40].view(np.uint16)[:, 1::2].tobytes(), raw=True),
    ]  # fmt: skip
