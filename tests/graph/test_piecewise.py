"""Looking at a graph's tensors some at a time gives what looking at all of them at once does, and computes everything once."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.errors import StageError
from compressctl.graph import piecewise
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.piecewise import PiecewiseRun
from compressctl.graph.replace_weights import with_weights

OPERATORS = ("Relu", "Neg", "Tanh", "Add", "Mul", "MatMul", "If")


def _graph(operators: Sequence[str], reads: Sequence[tuple[int, int]]) -> onnx.ModelProto:
    """Each node reads one or two of the tensors before it, the branches of an If too."""
    rng = np.random.default_rng(len(operators))
    nodes, stored, made = [], [numpy_helper.from_array(np.array(True), "yes")], ["x"]
    for place, (operator, (first, second)) in enumerate(zip(operators, reads, strict=True)):
        output, a, b = f"t{place}", made[first % len(made)], made[second % len(made)]
        if operator == "MatMul":
            stored.append(numpy_helper.from_array(rng.normal(0, 0.5, (4, 4)).astype(np.float32), f"w{place}"))
            nodes.append(helper.make_node("MatMul", [a, f"w{place}"], [output], f"n{place}"))
        elif operator == "If":
            branches = {
                name: helper.make_graph(
                    [helper.make_node("Sub", [a, b], [f"{output}_{name}"])],
                    name,
                    [],
                    [onnx.ValueInfoProto(name=f"{output}_{name}")],
                )
                for name in ("then_branch", "else_branch")
            }
            nodes.append(helper.make_node("If", ["yes"], [output], f"n{place}", **branches))
        else:
            inputs = [a, b] if operator in ("Add", "Mul") else [a]
            nodes.append(helper.make_node(operator, inputs, [output], f"n{place}"))
        made.append(output)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value(made[-1], TensorProto.FLOAT, ["batch", 4])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [{"x": rng.normal(0, 1, (size, 4)).astype(np.float32)} for size in (3, 1, 2)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_looks_in_any_order_find_what_a_whole_run_finds(data: Any) -> None:
    count = data.draw(st.integers(2, 9))
    operators = data.draw(st.lists(st.sampled_from(OPERATORS), min_size=count, max_size=count))
    places = st.integers(0, count)
    model = _graph(operators, data.draw(st.lists(st.tuples(places, places), min_size=count, max_size=count)))
    tensors = st.lists(
        st.sampled_from(["x", *(f"t{place}" for place in range(count))]), min_size=1, max_size=3, unique=True
    )
    looks = data.draw(st.lists(tensors, min_size=1, max_size=5))
    run = PiecewiseRun()
    for look in looks:
        whole = ActivationRecorder(model, look)
        for inputs, found in zip(_batches(), run.look(model, look, _batches()), strict=True):
            expected = whole.run(inputs)
            for name in look:
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6)


CHAIN = _graph(["MatMul", "Tanh", "MatMul", "Relu", "MatMul"], [(place, 0) for place in range(5)])


def test_everything_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In graph order; with what was computed kept in files, which may be as small as a byte here."""
    monkeypatch.setattr(piecewise, "_IN_MEMORY", 0)
    ran: list[str] = []

    class Counting(ActivationRecorder):
        def __init__(self, model: onnx.ModelProto, tensors: Sequence[str]) -> None:
            ran.extend(node.name for node in model.graph.node)
            super().__init__(model, tensors)

    monkeypatch.setattr(piecewise, "ActivationRecorder", Counting)
    run = PiecewiseRun()
    found = [[dict(values) for values in run.look(CHAIN, [name], _batches())] for name in ("t0", "t2", "t3")]
    assert ran == ["n0", "n1", "n2", "n3"]
    assert np.all(found[2][0]["t3"] == np.maximum(found[1][0]["t2"], 0))


def test_pieces_compute_with_the_weights_of_their_time() -> None:
    """As quantizing layer by layer needs: what comes later sees the weights that were rounded before."""
    rounded = with_weights(CHAIN, {"w2": np.round(numpy_helper.to_array(CHAIN.graph.initializer[2]))})
    run = PiecewiseRun()
    for _ in run.look(CHAIN, ["t1"], _batches()):
        pass
    [found, *_] = [dict(values) for values in run.look(rounded, ["t3"], _batches())]
    np.testing.assert_allclose(found["t3"], ActivationRecorder(rounded, ["t3"]).run(_batches()[0])["t3"], rtol=1e-6)


def test_another_graph_is_run_from_its_inputs() -> None:
    run, other = PiecewiseRun(), _graph(["Neg", "Tanh", "MatMul"], [(0, 0), (1, 0), (2, 0)])
    for model, before in pairwise([CHAIN, other, CHAIN]):
        for found, inputs in zip(run.look(before, ["t2"], _batches()), _batches(), strict=True):
            expected = ActivationRecorder(before, ["t2"]).run(inputs)["t2"]
            np.testing.assert_allclose(found["t2"], expected, rtol=1e-6, atol=1e-6)
        assert model is not before


def test_a_tensor_that_is_not_there_is_named() -> None:
    with pytest.raises(StageError, match="the graph has no tensor elsewhere"):
        next(PiecewiseRun().look(CHAIN, ["elsewhere"], _batches()))
