"""What can run on integers in a float graph, and what simplifying makes of a graph first."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from compressctl.graph.simplify import simplify
from compressctl.graph.sites import Kind, find_sites

FLOAT = onnx.TensorProto.FLOAT


def _model(nodes: list, constants: dict[str, np.ndarray], shape=("batch", 4, 8, 8), outputs=("y",)) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    for output in graph.output:
        output.type.tensor_type.elem_type = FLOAT
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def _weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_relu_is_folded_into_the_convolution_that_it_alone_reads() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w"], ["y"], "last"),
    ]
    first, last = find_sites(_model(nodes, {"w": _weight(4, 4, 1, 1)}).graph)
    assert (first.node, first.output, first.folded, first.clip[0]) == ("conv", "r", "relu", 0.0)
    assert (last.output, last.folded) == ("y", None)


def test_a_relu_beside_another_reader_is_not_folded() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Add", ["c", "r"], ["y"], "add"),
    ]
    (conv,) = find_sites(_model(nodes, {"w": _weight(4, 4, 1, 1)}).graph)
    assert (conv.output, conv.folded) == ("c", None)


def test_a_clip_that_shuts_zero_out_is_not_folded() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Clip", ["c", "low", "high"], ["y"], "clip"),
    ]
    constants = {"w": _weight(4, 4, 1, 1), "low": np.float32(1), "high": np.float32(6)}
    assert find_sites(_model(nodes, constants).graph)[0].folded is None


def test_what_combines_is_a_site_only_between_integers() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Add", ["a", "x"], ["b"], "residual"),
        helper.make_node("Conv", ["b", "w"], ["c"], "conv2"),
        helper.make_node("Add", ["c", "x"], ["y"], "tail"),
    ]
    sites = {site.node: site for site in find_sites(_model(nodes, {"w": _weight(4, 4, 1, 1)}).graph)}
    assert set(sites) == {"conv", "residual", "conv2"}
    assert sites["residual"].kind is Kind.COMBINE


def test_a_gemm_needs_an_integer_output_only_where_one_is_read() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "hidden", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2", "b"], ["y"], "head"),
    ]
    constants = {"w": _weight(8, 8), "w2": _weight(8, 8), "b": _weight(8)}
    hidden, head = find_sites(_model(nodes, constants, shape=("batch", 8)).graph)
    assert (hidden.needs_output, hidden.weight_axis, hidden.folded) == (True, 0, "relu")
    assert (head.needs_output, head.weight_axis) == (False, 1)


def test_a_pad_with_something_else_than_zero_stays_float() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Pad", ["a", "pads", "value"], ["b"], "pad"),
        helper.make_node("Conv", ["b", "w"], ["y"], "conv2"),
    ]
    constants = {"w": _weight(4, 4, 1, 1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "value": np.float32(1)}
    assert [site.node for site in find_sites(_model(nodes, constants).graph)] == ["conv", "conv2"]


def test_simplifying_folds_pad_and_batch_norm_and_keeps_the_function() -> None:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["c", "one", "two", "mean", "var"], ["n"]),
        helper.make_node("ReduceMean", ["n", "axes"], ["y"], keepdims=0),
    ]
    constants = {
        "pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]),
        "w": _weight(4, 4, 3, 3),
        "one": np.full(4, 1.5, np.float32),
        "two": np.full(4, 0.2, np.float32),
        "mean": np.full(4, 0.1, np.float32),
        "var": np.full(4, 2.0, np.float32),
        "axes": np.array([2, 3]),
    }
    model = _model(nodes, constants)
    simple = simplify(model)
    assert [node.op_type for node in simple.graph.node] == ["Conv", "GlobalAveragePool", "Flatten"]
    assert all(node.name for node in simple.graph.node)
    x = _weight(3, 4, 8, 8)
    np.testing.assert_allclose(_run(simple, x), _run(model, x), rtol=1e-4, atol=1e-5)


def test_simplifying_gives_every_node_a_name_of_its_own() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], "same"), helper.make_node("Conv", ["a", "w"], ["y"], "same")]
    names = [node.name for node in simplify(_model(nodes, {"w": _weight(4, 4, 1, 1)})).graph.node]
    assert len(set(names)) == 2
