"""Shortcuts without weights compute the same as a convolution, and nothing else is taken for one."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, reference

from compressctl.graph.shortcuts import shortcuts_as_convolutions
from compressctl.graph.simplify import simplify

INT64_MAX = np.iinfo(np.int64).max


def graph(slices: list[tuple[int, int]], pads: list[int], *, value: float = 0.0, start: int = 0) -> onnx.ModelProto:
    """slices: axis and step of each."""
    nodes, constants, tensor = [], {"pads": np.array(pads), "value": np.array(value, np.float32)}, "x"
    for number, (axis, step) in enumerate(slices):
        parts = {"start": start, "end": INT64_MAX, "axis": axis, "step": step}
        constants |= {f"{part}{number}": np.array([one]) for part, one in parts.items()}
        nodes.append(helper.make_node("Slice", [tensor, *(f"{part}{number}" for part in parts)], [f"s{number}"]))
        tensor = f"s{number}"
    nodes.append(helper.make_node("Pad", [tensor, "pads", "value"], ["y"], "pad"))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, None, None])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(reference.ReferenceEvaluator(model).run(None, {"x": x})[0])


@settings(max_examples=40, deadline=None)
@given(
    slices=st.lists(st.tuples(st.sampled_from([2, 3, -1, -2]), st.integers(1, 3)), min_size=1, max_size=3),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_the_convolution_computes_what_the_shortcut_does(
    slices: list[tuple[int, int]], before: int, after: int, height: int, width: int
) -> None:
    model = graph(slices, [0, before, 0, 0, 0, after, 0, 0])
    x = np.random.default_rng(0).standard_normal((2, 3, height, width)).astype(np.float32)
    wanted = run(model, x)
    found = shortcuts_as_convolutions(model.graph, {"x": 3})
    assert found == (any(step > 1 for _, step in slices) and before + after > 0)
    assert operators(model) == (["Conv"] if found else operators(model))
    np.testing.assert_array_equal(run(model, x), wanted)


@pytest.mark.parametrize(
    "model",
    [
        graph([(2, 2)], [0, 0, 1, 0, 0, 0, 1, 0]),
        graph([(2, 2)], [0, 1, 0, 0, 0, 1, 0, 0], value=1.0),
        graph([(1, 2)], [0, 1, 0, 0, 0, 1, 0, 0]),
        graph([(2, 2)], [0, 1, 0, 0, 0, 1, 0, 0], start=1),
        graph([(2, 2)], [0, -1, 0, 0, 0, 1, 0, 0]),
    ],
    ids=["pads the map", "not zeros", "of channels", "not from the first", "cuts channels"],
)
def test_what_is_something_else_stays(model: onnx.ModelProto) -> None:
    before = operators(model)
    assert shortcuts_as_convolutions(model.graph, {"x": 3}) == 0
    assert operators(model) == before


def test_a_tensor_that_others_read_keeps_its_slice() -> None:
    model = graph([(2, 2), (3, 2)], [0, 1, 0, 0, 0, 1, 0, 0])
    model.graph.output.append(helper.make_tensor_value_info("s0", TensorProto.FLOAT, None))
    assert shortcuts_as_convolutions(model.graph, {"x": 3}) == 0


def test_simplified_networks_have_none() -> None:
    found = operators(simplify(graph([(2, 2), (3, 2)], [0, 1, 0, 0, 0, 2, 0, 0])))
    assert found == ["Conv"]
