"""What a stage says that finds no weight to change: where the weights are, and of which type."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressctl.graph.where_weights import where_weights


def model_of(nodes: Sequence[onnx.NodeProto], tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(op: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, ["x", *inputs], ["y"], **attributes)


FLOATS = {"w": np.ones((8, 4), np.float32)}


@pytest.mark.parametrize(
    ("nodes", "tensors", "says"),
    [
        ([node("Relu")], {}, "the graph stores no parameters"),
        ([node("MatMul", "w")], {"w": np.ones((8, 4), np.float16)}, "all of its 32 parameters are read by MatMul (float16)"),
        ([node("Gemm", "w", alpha=0.5)], FLOATS, "all of its 32 parameters are read by Gemm with alpha or beta (float32)"),
        ([node("Einsum", "w", equation="ij,jk->ik")], FLOATS, "all of its 32 parameters are read by Einsum (float32)"),
        (
            [node("MatMul", "w")],
            {"w": np.ones((2, 8, 4), np.float32)},
            "all of its 64 parameters are read by MatMul with a weight of 3 axes (float32)",
        ),
        (
            [node("LSTM", "w", "r", hidden_size=2)],
            {"w": np.ones((1, 8, 8), np.float32), "r": np.ones((1, 8, 2), np.float32)},
            "all of its 80 parameters are read by LSTM (float32)",
        ),
    ],
)  # fmt: skip
def test_it_names_readers_and_types(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], says: str) -> None:
    assert where_weights(model_of(nodes, tensors)) == says


def test_weights_in_branches_are_said_to_be_there() -> None:
    def branch(name: str) -> onnx.GraphProto:
        product = helper.make_node("MatMul", ["x", "w"], [name])
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph(
            [product], name, [], [output], [numpy_helper.from_array(np.ones((8, 4), np.float32), "w")]
        )

    choice = helper.make_node("If", ["c"], ["m"], then_branch=branch("a"), else_branch=branch("b"))
    found = where_weights(model_of([choice, helper.make_node("Add", ["m", "o"], ["y"])], {"o": np.ones(4, np.float32)}))
    assert found == "of its 68 parameters 64 are read by MatMul (float32, inside If), 4 are read by Add (float32)"
