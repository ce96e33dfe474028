"""The graph that stands for a quantized network is that network, to within a code."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.exact import exact_output
from support.graphs import residual_model

from compressctl.backends.dialects.cpu import emit
from compressctl.core.target import Target
from compressctl.graph.codes import weight_values
from compressctl.graph.execute import ActivationRecorder, leading_to
from compressctl.graph.index import index
from compressctl.graph.replace_weights import with_weights
from compressctl.graph.simulate import with_rounded_activations


@pytest.mark.parametrize("floats", [{}, {"conv2": "asked for"}], ids=["all integer", "one float"])
def test_it_computes_what_the_emitted_file_computes(floats: dict[str, str]) -> None:
    model = residual_model(floats)
    assert model.quant is not None
    found = index(model.body.graph)
    weights = {
        name: weight_values(values, quant)
        for name, quant in model.quant.weights.items()
        if (values := found.array(name)) is not None and not (floats and name == "w2")
    }
    simulated, _ = with_rounded_activations(with_weights(model.body, weights), model.quant)
    feed = {"x": np.random.default_rng(0).normal(size=(2, 8, 6, 6)).astype(np.float32)}
    file = exact_output(emit(model, Target("onnxruntime")), feed)
    difference = np.abs(ActivationRecorder(simulated, ["y"]).run(feed)["y"] - file)
    without = np.abs(ActivationRecorder(model.body, ["y"]).run(feed)["y"] - file)
    step = float(model.quant.activations["c2"].scale)
    # A bias is rounded too in the file, which moves a value over the edge of its code now and then.
    assert difference.max() <= 1.01 * step
    assert difference.mean() < 0.1 * without.mean()


def test_only_what_a_tensor_depends_on_is_kept() -> None:
    """An If reads a tensor of the outer graph that no input list names."""
    branch = helper.make_graph(
        [helper.make_node("Add", ["a", "one"], ["c"], "inner")], "then", [], [onnx.ValueInfoProto(name="c")]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["b"], ["d"], "e")], "else", [], [onnx.ValueInfoProto(name="d")]
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("Neg", ["x"], ["b"], "second"),
        helper.make_node("If", ["yes"], ["y"], "choice", then_branch=branch, else_branch=other),
        helper.make_node("Abs", ["y"], ["z"], "after"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.float32(1), "one"), numpy_helper.from_array(np.array(True), "yes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    kept = leading_to(model, ["y"])
    assert [node.name for node in kept.graph.node] == ["first", "second", "choice"]
    assert {tensor.name for tensor in kept.graph.initializer} == {"one", "yes"}
    assert np.array_equal(ActivationRecorder(kept, ["y"]).run({"x": np.array([-1, 2], np.float32)})["y"], [1, 3])
    assert [node.name for node in leading_to(model, ["a"]).graph.node] == ["first"]
