"""Where two deliverables part."""

import numpy as np
import onnx
from onnx import numpy_helper
from support.graphs import residual_model

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.target import Target
from compressctl.measure.divergence import first_divergence

INPUTS = {"x": np.random.default_rng(0).normal(0, 1, (4, 8, 6, 6)).astype(np.float32)}


def test_dialects_of_one_plan_hardly_differ_and_a_spoilt_layer_is_named() -> None:
    model = residual_model()
    processor = to_onnx(model, Target("onnxruntime", profile="x86-vnni"))
    gpu = to_onnx(model, Target("tensorrt", options={"precision": "float32"}))
    same = first_divergence(processor, gpu, INPUTS)
    assert same is not None
    assert same.share < 0.1
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(gpu)
    scale = next(tensor for tensor in spoilt.graph.initializer if tensor.name == "w2_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(3), "w2_scale"))
    found = first_divergence(processor, spoilt, INPUTS)
    assert found is not None
    assert found.node == "conv2"
    assert found.share > 1


def test_graphs_without_a_common_product_have_nothing_to_compare() -> None:
    model = residual_model()
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model.body)
    for node in renamed.graph.node:
        node.name = f"other_{node.name}"
    assert first_divergence(model.body, renamed, INPUTS) is None
