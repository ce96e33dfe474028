"""Activations spelled out in several nodes: every spelling is known by what it computes, and what is nearly one is left alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.spelled import ALL, GATE, SHAPE, SPELLINGS, Expression, Writer, model_of

from compressctl.graph.activations import spelled_out, write_hard_gates
from compressctl.graph.canonical import canonical

RANKS = {"x": 3}
NEARLY: Sequence[Expression] = (
    ("Mul", "x", ("HardSigmoid:0.2", "x")),
    ("Div", ("Mul", "x", ("Clip", ("Add", "x", 3.0), 0.0, 6.5)), 6.0),
    ("Div", ("Mul", "x", ("Clip", ("Add", "x", 2.9), 0.0, 6.0)), 6.0),
    ("Mul", "x", ("Sigmoid", ("Mul", "x", 1.702))),
    ("Mul", "y", ("Div", ("Clip", ("Add", "x", 3.0), 0.0, 6.0), 5.0)),
    ("Min", ("Mul", "x", ("Sigmoid", "x")), 20.0),
    ("Mul", ("Mul", "x", ("Add", ("Erf", ("Div", "x", 1.5)), 1.0)), 0.5),
)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    x = np.linspace(-9, 9, math.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {"x": x, "y": x[::-1].copy()})
    return found


@given(st.sampled_from(ALL), st.booleans(), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_every_spelling_is_known_whole_with_numbers_of_any_rank(
    case: tuple[str, Expression], shares: bool, rank: int
) -> None:
    kind, spelling = case
    model = model_of(spelling, shares=shares, number_rank=rank)
    found = list(spelled_out(model.graph, RANKS))
    assert [(one.kind, one.reads, len(one.nodes)) for one in found] == [(kind, "x", len(model.graph.node) - 1)]


@pytest.mark.parametrize("spelling", NEARLY)
def test_what_is_nearly_one_is_left_alone(spelling: Expression) -> None:
    model = model_of(spelling)
    before = model.SerializeToString()
    whole = [one for one in spelled_out(model.graph, RANKS) if one.nodes[0].output[0] == model.graph.node[-1].input[0]]
    assert not whole
    write_hard_gates(model.graph, RANKS)
    assert model.SerializeToString() == before


def test_numbers_with_more_axes_than_the_tensor_change_its_shape_and_make_no_activation() -> None:
    model = model_of(SPELLINGS["hard_swish"][1], number_rank=4)
    assert not list(spelled_out(model.graph, RANKS))
    assert not list(spelled_out(model_of(SPELLINGS["hard_swish"][1], number_rank=1).graph, {}))


@pytest.mark.parametrize(("kind", "spelling"), [one for one in ALL if one[0].startswith("hard")])
def test_hard_gates_become_one_node_and_at_most_a_product_and_compute_the_same(kind: str, spelling: Expression) -> None:
    model = model_of(spelling)
    before = run(model)
    write_hard_gates(model.graph, RANKS)
    onnx.checker.check_model(model, full_check=True)
    wanted = ["HardSigmoid", "Mul", "Add"] if kind == "hard_swish" else ["HardSigmoid", "Add"]
    assert [node.op_type for node in model.graph.node] == wanted
    np.testing.assert_allclose(run(model)[0], before[0], atol=1e-5)


def test_what_others_read_inside_is_kept_and_nothing_written_that_saves_no_node() -> None:
    model = model_of(("Mul", "x", GATE[1]), outputs=["made_0"])
    before = run(model)
    write_hard_gates(model.graph, RANKS)
    assert [node.op_type for node in model.graph.node] == ["Add", "HardSigmoid", "Mul", "Add"]
    for found, known in zip(run(model), before, strict=True):
        np.testing.assert_allclose(found, known, atol=1e-5)
    model = model_of(("Mul", "x", GATE[1]), outputs=["made_1"])
    unchanged = model.SerializeToString()
    write_hard_gates(model.graph, RANKS)
    assert model.SerializeToString() == unchanged


CLAMPED: Sequence[Expression] = tuple(
    outside
    for end in (127.0, 200.0, 65504.0)
    for inside in (("Mul", "x", GATE[1]), ("Mul", "x", ("Sigmoid", "x")))
    for outside in (("Clip", inside, -end, end), ("Min", inside, end))
)


@pytest.mark.parametrize("spelling", CLAMPED)
def test_ends_that_no_sample_reaches_are_kept(spelling: Expression) -> None:
    model = model_of(spelling)
    (found,) = spelled_out(model.graph, RANKS)
    assert found.nodes[0].op_type == "Mul"
    write_hard_gates(model.graph, RANKS)
    assert {"Clip", "Min"} & {node.op_type for node in model.graph.node}


def test_what_another_activation_reads_stays() -> None:
    gate = GATE[1]
    for spelling in (
        ("Add", ("Mul", "x", gate), ("Mul", gate, ("Div", ("Clip", ("Add", gate, 3.0), 0.0, 6.0), 6.0))),
        ("Add", ("Mul", "x", gate), _gated(("Add", "x", 3.0))),
    ):
        model = model_of(spelling)
        before = run(model)
        write_hard_gates(model.graph, RANKS | dict.fromkeys((f"made_{place}" for place in range(12)), 3))
        onnx.checker.check_model(model, full_check=True)
        np.testing.assert_allclose(run(model)[0], before[0], atol=1e-5)


def _gated(x: Expression) -> Expression:
    return ("Mul", x, ("Div", ("Clip", ("Add", x, 3.0), 0.0, 6.0), 6.0))


def test_what_computes_in_float64_is_left_alone() -> None:
    model = model_of(("Mul", "x", GATE[1]))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    assert not list(spelled_out(model.graph, RANKS))


def test_a_gate_around_a_body_is_not_computed_in_it() -> None:
    made = Writer()
    gate = made.write(GATE[1])
    body = helper.make_graph(
        [helper.make_node("Mul", ["x", gate], ["r"], "inner")], "b", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, SHAPE)]
    )  # fmt: skip
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    graph = helper.make_graph(
        [*made.nodes, helper.make_node("If", ["c"], ["out"], "if", then_branch=body, else_branch=body)], "g",
        [value, helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, SHAPE)], made.constants,
    )  # fmt: skip
    model = canonical(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    write_hard_gates(model.graph, RANKS)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["HardSigmoid", "If"]


def test_what_nothing_read_before_stays_as_it_was() -> None:
    model = model_of(("Mul", "x", GATE[1]))
    model.graph.node.insert(0, helper.make_node("Exp", ["x"], ["unread"], "unread"))
    write_hard_gates(model.graph, RANKS)
    assert [node.op_type for node in model.graph.node] == ["Exp", "HardSigmoid", "Mul", "Add"]


def test_activations_behind_one_another_and_in_branches_are_each_found() -> None:
    inner = ("Mul", "x", GATE[2])
    model = model_of(("Mul", inner, ("Sigmoid", inner)))
    assert [one.kind for one in spelled_out(model.graph, RANKS | {"made_4": 3, "made_3": 3})] == ["silu", "hard_swish"]

    made = Writer()
    result = made.write(("Mul", "x", GATE[1]))
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    branches = {
        name: helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, SHAPE)], constants
        )
        for name, nodes, out, constants in (
            ("then_branch", made.nodes, result, made.constants),
            ("else_branch", [helper.make_node("Relu", ["x"], ["r"], "relu")], "r", []),
        )
    }
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["out"], "if", **branches)], "g", [value, condition],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, SHAPE)],
    )  # fmt: skip
    branched = canonical(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    write_hard_gates(branched.graph, RANKS)
    onnx.checker.check_model(branched)
    body = next(entry.g for entry in branched.graph.node[0].attribute if entry.name == "then_branch")
    assert [node.op_type for node in body.node] == ["HardSigmoid", "Mul"]
