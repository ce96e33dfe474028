"""Costs of what a runtime executes: exact at a real sample's shapes, unknown without them, and never 0 instead."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.backend import Artifact, Backend, ExecutedNode
from compressctl.core.count import Count, count
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan
from compressctl.core.target import Target
from compressctl.graph.cost import count_macs
from compressctl.measure.size import integer_mac_share, size
from compressctl.numerics.int8_weights import quantize_weight
from compressctl.pipeline.workspace import open_backend

SHAPE = (1, 3, 10, 12)


def as_model(proto: onnx.ModelProto, shape: tuple[int | str, ...], output: tuple[int | str, ...]) -> Model:
    signature = Signature((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", output),))
    return OnnxModel(proto, signature)


def image_model() -> Model:
    """A convolution, a transposed one and a product, on an image of any size."""
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.normal(size=(4, 3, 3, 3)), "t": rng.normal(size=(4, 6, 2, 2)), "m": rng.normal(size=(6, 5)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("ConvTranspose", ["a", "t"], ["b"], "turned"),
        helper.make_node("Transpose", ["b"], ["c"], "last", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["c", "m"], ["y"], "up"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "a", "b", 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return as_model(proto, ("n", 3, "h", "w"), ("n", "a", "b", 5))


def expected() -> dict[str, int]:
    rows, columns = SHAPE[2] - 2, SHAPE[3] - 2
    return {
        "conv": 4 * rows * columns * 3 * 9,
        "turned": 4 * rows * columns * 6 * 4,
        "up": (rows + 1) * (columns + 1) * 6 * 5,
    }


def built(name: str, model: Model, folder: Path) -> tuple[Backend, Artifact, Target]:
    if name == "openvino":
        pytest.importorskip("openvino")
    backend, target = open_backend(name), Target(name)
    return backend, backend.build(model, target, folder), target


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_real_sample_decides_what_open_axes_leave_unknown(name: str, tmp_path: Path) -> None:
    model = image_model()
    backend, artifact, target = built(name, model, tmp_path)
    share, unknown = integer_mac_share(backend.explain(artifact, target))
    assert (share, sum(unknown.values())) == (None, 3)
    nodes = backend.explain(artifact, target, {"x": SHAPE})
    assert {node.name: node.macs for node in nodes if node.macs} == expected()
    assert integer_mac_share(nodes) == (0.0, {})


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_ledger_counts_at_the_shapes_that_it_is_given(name: str, tmp_path: Path) -> None:
    model = image_model()
    backend, artifact, target = built(name, model, tmp_path)
    without = size(artifact, model, backend, backend.explain(artifact, target))
    assert (without.macs, without.macs_at_least, sum(without.macs_unknown.values())) == (None, None, 3)
    assert without.bit_operations is None
    inputs = {"x": SHAPE}
    found = size(artifact, model, backend, backend.explain(artifact, target, inputs), inputs)
    assert found.macs == sum(expected().values())
    assert found.bit_operations == 32 * 32 * sum(expected().values())
    assert size(artifact, model, backend).bit_operations is None


def text_model() -> Model:
    """Two products over sequences of any length, the first with dynamic ranges: its kernel is none that ONNX defines."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(32, 32)).astype(np.float32) for name in ("w1", "w2")}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 32])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = as_model(proto, ("n", "t", 32), ("n", "t", 32))
    quantized = {"w1": quantize_weight(weights["w1"], 1, per_channel=True, guard="off")}
    return OnnxModel(model.body, model.signature, QuantPlan({}, quantized, {}, frozenset({"first"})))


def test_the_integer_share_is_known_behind_dynamic_ranges(tmp_path: Path) -> None:
    model = text_model()
    backend, artifact, target = built("onnxruntime", model, tmp_path)
    known = backend.explain(artifact, target, {"x": (1, 7, 32)})
    assert integer_mac_share(known) == (0.5, {})
    assert sum(node.macs or 0 for node in known) == 2 * 7 * 32 * 32
    assert integer_mac_share(backend.explain(artifact, target))[0] is None


def executed(op: str, precision: str, macs: int | None) -> ExecutedNode:
    return ExecutedNode(op.lower(), op, precision, macs)


def test_the_share_is_of_what_is_known_and_says_what_it_leaves_out() -> None:
    nodes = (
        executed("Conv", "int8", 300),
        executed("Gemm", "float32", 100),
        executed("LSTM", "float32", None),
        executed("LSTM", "float32", None),
        executed("Relu", "float32", 0),
    )
    assert integer_mac_share(nodes) == (0.75, {"LSTM": 2})


def test_where_nothing_multiplies_there_is_no_share() -> None:
    assert integer_mac_share((executed("Relu", "float32", 0),)) == (None, {})


def test_an_unknown_precision_is_no_32_bits(tmp_path: Path) -> None:
    model = image_model()
    backend, artifact, _ = built("onnxruntime", model, tmp_path)
    nodes = (executed("Conv", "unknown", 10), executed("Gemm", "int8", 10))
    found = size(artifact, model, backend, nodes)
    assert (found.bit_operations, found.bit_operations_at_least) == (None, 640)


def test_a_recurrent_layer_and_a_branch_are_executed_at_unknown_cost(tmp_path: Path) -> None:
    values: dict[str, Any] = {"W": np.ones((1, 16, 3)), "R": np.ones((1, 16, 4)), "v": np.ones((4, 2))}

    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["s", "v"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        helper.make_node("LSTM", ["x", "W", "R"], ["h", "", ""], "lstm", hidden_size=4),
        helper.make_node("Squeeze", ["h", "one"], ["s"], "squeeze"),
        helper.make_node("If", ["c"], ["y"], "choice", then_branch=branch("p"), else_branch=branch("q")),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", "n", 3]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in values.items()]
    tensors.append(numpy_helper.from_array(np.array([1]), "one"))
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, None)], tensors)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    backend, target = open_backend("onnxruntime"), Target("onnxruntime")
    artifact = Artifact("onnxruntime", path, (path,))
    assert integer_mac_share(backend.explain(artifact, target))[1] == {"LSTM": 1, "If": 1}
    known = {node.op: node.macs for node in backend.explain(artifact, target, {"x": (5, 2, 3)})}
    assert (known["LSTM"], known["If"]) == (5 * 2 * 16 * (3 + 4), None)
    assert count_macs(onnx.load(path), inputs={"x": (5, 2, 3)}) == Count(1120, {"MatMul": 2})


@pytest.mark.parametrize(
    ("values", "shown", "exact", "at_least"),
    [
        ([("Conv", 1000), ("Relu", 0)], "1,000", 1000, None),
        ([("Conv", 1000), ("MatMul", None)], "at least 1,000 (1 node unknown)", None, 1000),
        ([("MatMul", None), ("Relu", 0), ("LSTM", None)], "unknown", None, None),
        ([("Relu", 0)], "0", 0, None),
    ],
)
def test_a_count_says_what_it_does_not_know(
    values: list[tuple[str, int | None]], shown: str, exact: int | None, at_least: int | None
) -> None:
    found = count(values)
    assert (str(found), found.exact, found.at_least) == (shown, exact, at_least)
