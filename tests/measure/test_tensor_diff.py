"""Which tensors of two files are held against each other: never two that compute different things."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from compressctl.measure.tensor_diff import tensor_fidelity

RNG = np.random.default_rng(0)


def _normed(folder: Path) -> Path:
    """A convolution, a batch norm with far from unit scales, and another convolution."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["t"], name="conv"),
        helper.make_node("BatchNormalization", ["t", "scale", "bias", "mean", "variance"], ["u"], name="norm"),
        helper.make_node("Conv", ["u", "v"], ["y"], name="last"),
    ]
    arrays = {
        "w": RNG.standard_normal((8, 3, 3, 3)),
        "v": RNG.standard_normal((4, 8, 1, 1)),
        "scale": RNG.uniform(5, 50, 8),
        "bias": RNG.standard_normal(8) * 20,
        "mean": RNG.standard_normal(8),
        "variance": RNG.uniform(0.5, 2, 8),
    }
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 4, 6, 6]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    onnx.save(model, folder / "normed.onnx")
    return folder / "normed.onnx"


def test_a_product_that_a_batch_norm_was_folded_into_is_held_against_the_norm(tmp_path: Path) -> None:
    first = _normed(tmp_path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    ort.InferenceSession(first, options, providers=["CPUExecutionProvider"])
    folded = onnx.load(tmp_path / "folded.onnx").graph
    assert [(node.name, node.output[0]) for node in folded.node] == [("conv", "u"), ("last", "y")]

    inputs = {"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    found = tensor_fidelity((first, tmp_path / "folded.onnx"), [(inputs, inputs)], tmp_path)
    assert [tensor.layer for tensor in found] == ["norm", "last"]
    assert all(tensor.found.identical or (tensor.found.sqnr_db or 0) > 100 for tensor in found)
