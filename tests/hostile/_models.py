"""A small network whose weight may be said to be anywhere, and the files around it."""

import numpy as np
import onnx
from hostile._case import Case
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def network(tensor: TensorProto | None = None) -> onnx.ModelProto:
    """y = x W + b, W of 8 x 4."""
    weight = numpy_helper.from_array(WEIGHT, "W") if tensor is None else tensor
    nodes = [helper.make_node("MatMul", ["x", "W"], ["m"], "mm"), helper.make_node("Add", ["m", "b"], ["y"], "add")]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 8), ("y", 4))]
    graph = helper.make_graph(
        nodes, "g", sides[:1], sides[1:], [weight, numpy_helper.from_array(np.zeros(4, np.float32), "b")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outside(**said: str) -> TensorProto:
    """A weight that says its numbers are in another file."""
    tensor = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[8, 4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", "offset": "0", "length": "128", **said}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def written(case: Case, model: onnx.ModelProto | bytes) -> None:
    """model.onnx, a recipe for it, and w.bin beside it with as many bytes as W takes."""
    folder = case.folder
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    onnx.save(network(), folder / "good.onnx")
    (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    model_of = "recipe: compressctl/v1\ntask: custom\nmodel: {source: onnx, path: model.onnx}\n"
    (folder / "recipe.yaml").write_text(model_of + "stages: [{use: quantize.dynamic}]\n")
    np.savez(folder / "data.npz", x=np.zeros((20, 8), np.float32), labels=np.zeros(20, np.int64))
    good = "recipe: compressctl/v1\nmodel: {source: onnx, path: good.onnx}\n"
    (folder / "data.yaml").write_text(good + "data: {source: npz, path: data.npz, inputs: x, labels: labels}\n")
