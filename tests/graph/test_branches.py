"""A network that decides by its input computes the same with branches as without, in both runtimes, and no more than it needs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compressctl.graph.branches import SELECTS, decisions, depends_on_input, undecided, write_branches
from compressctl.graph.canonical import constants_beside_readers
from compressctl.graph.index import all_graphs, bodies

WIDTH = 6


class Random:
    """A chain of layers, some skipped by a gate that looks at their input, with exits that may leave the rest out. Weights are shared now and then."""

    def __init__(self, seed: int, layers: int, exits: int, gates: int, *, quantized: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {"limit": np.array(0.3, np.float32)}
        self.quantized = quantized
        if quantized:
            self.constants |= {"scale": np.array(0.02, np.float32), "zero": np.array(128, np.uint8)}
        gated = set(self.rng.permutation(layers)[:gates].tolist())
        left = sorted(self.rng.permutation(layers - 1)[:exits].tolist())
        tensor, leaving = "x", []
        for layer in range(layers):
            made = self.layer(tensor, layer)
            if layer in gated:
                made = self.select(
                    self.decided(tensor, f"gate{layer}", least=False), tensor, made, f"layer{layer}.{SELECTS}/Where"
                )
            tensor = made
            if layer in left:
                scores = self.product(tensor, f"exit{layer}")
                leaving.append((self.decided(scores, f"exit{layer}_sure", least=True), scores))
        output = self.product(tensor, "head")
        for number, (decided, scores) in reversed(list(enumerate(leaving))):
            output = self.select(decided, scores, output, f"{SELECTS}.{number}/Where")
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="y"))
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def product(self, tensor: str, name: str) -> str:
        weight = f"w{self.rng.integers(3)}" if self.rng.random() < 0.2 else f"{name}_w"
        self.constants.setdefault(weight, self.rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 2)
        if self.quantized:
            codes = self.add("QuantizeLinear", [tensor, "scale", "zero"], f"{name}_q")
            tensor = self.add("DequantizeLinear", [codes, "scale", "zero"], f"{name}_dq")
        return self.add("MatMul", [tensor, weight], f"{name}_out")

    def layer(self, tensor: str, number: int) -> str:
        made = self.add("Relu", [self.product(tensor, f"layer{number}")], f"layer{number}_relu")
        return self.add("Add", [tensor, made], f"layer{number}_sum")

    def decided(self, tensor: str, name: str, *, least: bool) -> str:
        if least:
            found = self.add(
                "ReduceMax", [self.add("Softmax", [tensor], f"{name}_p", axis=1)], f"{name}_m", axes=[1], keepdims=1
            )
            return self.add("Greater", [found, "limit"], name)
        found = self.add("ReduceMean", [tensor], f"{name}_m", axes=[1], keepdims=1)
        return self.add("Less", [found, "limit"], name)

    def select(self, decided: str, early: str, late: str, name: str) -> str:
        output = f"{name}_out".replace("/", "_")
        self.nodes.append(helper.make_node("Where", [decided, early, late], [output], name=name))
        return output


def branched(model: onnx.ModelProto, *, gathers: bool = False) -> tuple[onnx.ModelProto, int]:
    made = onnx.ModelProto.FromString(model.SerializeToString())
    count = write_branches(made, gathers=gathers)
    constants_beside_readers(made.graph)
    onnx.checker.check_model(made, full_check=True)
    return made, count


def runner(model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return lambda x: np.asarray(session.run(None, {"x": x})[0])


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 6),
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([1, 1, 2, 5]),
    st.booleans(),
)
def test_branches_compute_what_the_selections_do(
    seed: int, layers: int, exits: int, gates: int, quantized: bool, batch: int, gathers: bool
) -> None:
    model = Random(seed, layers, min(exits, layers - 1), min(gates, layers), quantized=quantized).model
    made, count = branched(model, gathers=gathers)
    assert count == len(decisions(model.graph))
    assert sum(node.op_type == "If" for graph in all_graphs(made.graph) for node in graph.node) == count
    before, after = runner(model), runner(made)
    rng = np.random.default_rng(seed)
    for _ in range(4):
        x = rng.standard_normal((batch, WIDTH)).astype(np.float32)
        # Fewer rows in one product may be added in another order.
        np.testing.assert_allclose(after(x), before(x), rtol=0, atol=1e-4 if gathers else 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans())
def test_where_nothing_is_decided_everything_is_computed(
    seed: int, layers: int, exits: int, gates: int, quantized: bool, computed: bool
) -> None:
    """computed: bounds that are no constants, as of a threshold that is worked out."""
    model = Random(seed, layers, min(exits, layers - 1), min(gates, layers), quantized=quantized).model
    if computed:
        model.graph.node.insert(0, helper.make_node("Identity", ["limit"], ["limit_given"], name="limit_given"))
        for node in model.graph.node:
            node.input[:] = [
                "limit_given" if name == "limit" and node.op_type != "Identity" else name for name in node.input
            ]
    late = onnx.ModelProto.FromString(model.SerializeToString())
    for node in late.graph.node:
        if node.op_type == "Where":
            node.op_type = "Identity"
            node.input[:] = node.input[2:]
    whole = undecided(model)
    made, count = branched(whole)
    assert count == len(decisions(model.graph))
    x = np.random.default_rng(seed).standard_normal((3, WIDTH)).astype(np.float32)
    for one in (whole, made):
        np.testing.assert_array_equal(runner(one)(x), runner(late)(x))


def test_of_several_samples_only_the_undecided_are_computed() -> None:
    model = Random(1, 4, 2, 1, quantized=False).model
    made, _ = branched(model, gathers=True)
    inner = [node.op_type for graph in list(all_graphs(made.graph))[1:] for node in graph.node]
    assert {"NonZero", "Gather", "ScatterND"} <= set(inner)
    assert "Where" not in inner


def test_what_only_undecided_samples_need_is_in_the_branch_with_its_weights() -> None:
    made, _ = branched(Random(1, 4, 2, 0, quantized=False).model)
    outside = [node.op_type for node in made.graph.node]
    assert outside.count("MatMul") < 3
    (branch,) = [node for node in made.graph.node if node.op_type == "If"]
    inner = next(body for body in bodies(branch) if len(body.node) > 1)
    assert len(inner.initializer) > 0
    assert depends_on_input(made.graph)


def test_the_branch_is_not_computed_where_it_is_not_needed() -> None:
    """A division of integers by zero ends ONNX Runtime's call: in a branch that is not taken it does not happen."""
    nodes = [
        helper.make_node("Less", ["x", "limit"], ["decided"], name="decided"),
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT32, name="cast"),
        helper.make_node("Gather", ["table", "whole"], ["late"], axis=0, name="gather"),
        helper.make_node("Where", ["decided", "x", "late"], ["y"], name=f"{SELECTS}.0/Where"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array(np.array(0.0, np.float32), "limit"),
            numpy_helper.from_array(np.arange(4, dtype=np.float32), "table"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    outside = np.array([[-50.0]], np.float32)  # no row of the table
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument):
        runner(model)(outside)
    assert runner(branched(model)[0])(outside) == outside


def test_a_graph_without_marks_stays_as_it_is(tmp_path: Path) -> None:
    model = Random(3, 3, 1, 1, quantized=False).model
    for node in model.graph.node:
        node.name = node.name.replace(SELECTS, "chosen")
    made = onnx.ModelProto.FromString(model.SerializeToString())
    assert write_branches(made) == 0
    assert made == model


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_runs_the_same(batch: int, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = Random(7, 5, 2, 2, quantized=False).model
    made, count = branched(model, gathers=batch > 1)
    assert count == 4
    onnx.save(made, tmp_path / "m.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "m.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    before = runner(model)
    rng = np.random.default_rng(0)
    for _ in range(6):
        x = rng.standard_normal((batch, WIDTH)).astype(np.float32)
        np.testing.assert_allclose(compiled(x)[0], before(x), atol=1e-4)
