"""HardSwish put together again, and nothing else."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support.spelled import ALL, Expression, model_of

from compressctl.graph.fuse import fuse_hard_swish
from compressctl.graph.opset import opset_of
from compressctl.graph.simplify import simplify


def _gate(alpha: float, opset: int = 17, extra: bool = False) -> onnx.ModelProto:
    nodes = [
        helper.make_node("HardSigmoid", ["x"], ["h"], "gate", alpha=alpha, beta=0.5),
        helper.make_node("Mul", ["h", "x"], ["y"], "product"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]
    if extra:
        outputs.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [4]))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_the_pattern_becomes_one_operator_with_the_products_name_and_the_same_values() -> None:
    fused = fuse_hard_swish(_gate(1 / 6))
    assert [(node.op_type, node.name) for node in fused.graph.node] == [("HardSwish", "product")]
    x = np.array([-5, -1, 1, 5], np.float32)
    before, after = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        for model in (_gate(1 / 6), fused)
    )
    assert before == pytest.approx(after, abs=1e-6)


def test_an_older_opset_is_raised_for_it_and_only_for_it() -> None:
    fused = fuse_hard_swish(_gate(1 / 6, opset=13))
    assert [(node.op_type, node.name) for node in fused.graph.node] == [("HardSwish", "product")]
    assert opset_of(fused) == 14
    onnx.checker.check_model(fused)
    assert opset_of(fuse_hard_swish(_gate(0.2, opset=13))) == 13


@pytest.mark.parametrize("spelling", [one for kind, one in ALL if kind == "hard_swish"])
def test_openvino_gets_the_operator_of_every_spelling_that_is_quantized(spelling: Expression) -> None:
    fused = fuse_hard_swish(simplify(model_of(spelling, opset=13)))
    assert [node.op_type for node in fused.graph.node] == ["HardSwish", "Add"]


@pytest.mark.parametrize("model", [_gate(0.2), _gate(1 / 6, extra=True)])
def test_what_is_not_hard_swish_stays(model: onnx.ModelProto) -> None:
    assert [node.op_type for node in fuse_hard_swish(model).graph.node] == ["HardSigmoid", "Mul"]
