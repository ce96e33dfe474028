"""MACs inside bodies: as often as a Loop or Scan runs, and of the branch that is taken; unknown where only running it tells."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from compressctl.core.count import Count
from compressctl.graph.cost import costs, count_macs, executed_macs

IN, HIDDEN, STEPS, BATCH = 5, 7, 11, 3
ONE_STEP = BATCH * HIDDEN * (IN + HIDDEN)

WEIGHTS = {"w": np.ones((IN, HIDDEN), np.float32), "r": np.ones((HIDDEN, HIDDEN), np.float32)}
CELL = [
    helper.make_node("MatMul", ["step", "w"], ["from_x"], "from_x"),
    helper.make_node("MatMul", ["before", "r"], ["from_state"], "from_state"),
    helper.make_node("Add", ["from_x", "from_state"], ["sum"]),
    helper.make_node("Tanh", ["sum"], ["after"]),
    helper.make_node("Identity", ["after"], ["kept"]),
]


def value(name: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes: list[NodeProto], inputs: list[onnx.ValueInfoProto], more: dict[str, np.ndarray]) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in {**WEIGHTS, **more}.items()]
    outputs = [value(name, None) for name in ("last", "every")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def scan() -> onnx.ModelProto:
    body = helper.make_graph(
        CELL, "body", [value("before", None), value("step", None)], [value("after", None), value("kept", None)]
    )
    return model_of(
        [helper.make_node("Scan", ["h0", "x"], ["last", "every"], "scan", body=body, num_scan_inputs=1)],
        [value("x", ["steps", "n", IN]), value("h0", ["n", HIDDEN])],
        {},
    )


def loop(stop: str = "going") -> onnx.ModelProto:
    """As exporters write it: the trip count is a size of x, and a run takes its own step."""
    take = [
        helper.make_node("Gather", ["x", "i"], ["step"], axis=0),
        *CELL,
        helper.make_node("Identity", [stop], ["goes"]),
    ]
    if stop != "going":
        take.insert(0, helper.make_node("Less", ["i", "limit"], [stop]))
    body = helper.make_graph(
        take,
        "body",
        [value("i", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("before", None)],
        [value("goes", [], TensorProto.BOOL), value("after", None), value("kept", None)],
    )
    return model_of(
        [
            helper.make_node("Shape", ["x"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "zero"], ["trips"]),
            helper.make_node("Loop", ["trips", "true", "h0"], ["last", "every"], "loop", body=body),
        ],
        [value("x", ["steps", "n", IN]), value("h0", ["n", HIDDEN])],
        {"zero": np.array(0), "true": np.array(True), "limit": np.array(4)},
    )


SHAPES = {"x": (STEPS, BATCH, IN), "h0": (BATCH, HIDDEN)}


@pytest.mark.parametrize(("model", "name"), [(scan(), "scan"), (loop(), "loop")], ids=["Scan", "Loop"])
def test_a_recurrent_layer_that_is_written_as_a_body_counts_every_step(model: onnx.ModelProto, name: str) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    assert session.run(["every"], given)[0].shape == (STEPS, BATCH, HIDDEN)  # it runs that often
    assert count_macs(model, inputs=SHAPES) == Count(STEPS * ONE_STEP)
    assert executed_macs(costs(model, inputs=SHAPES))[name] == STEPS * ONE_STEP


@pytest.mark.parametrize("model", [scan(), loop()], ids=["Scan", "Loop"])
def test_without_a_number_of_steps_it_is_unknown_and_not_nothing(model: onnx.ModelProto) -> None:
    assert count_macs(model) == Count(0, {"MatMul": 2})


def test_a_loop_that_decides_itself_when_it_ends_is_unknown() -> None:
    assert count_macs(loop(stop="soon"), inputs=SHAPES) == Count(0, {"MatMul": 2})


def branches(rate: str = "sr") -> onnx.ModelProto:
    """A first If multiplies by w, or by w and r; a second one, behind it, multiplies what came, and so does the graph behind that."""

    def branch(name: str, nodes: list[NodeProto]) -> GraphProto:
        return helper.make_graph(nodes, name, [], [value(nodes[-1].output[0], None)])

    short = branch("short", [helper.make_node("MatMul", ["x", "w"], ["a"], "one")])
    long = branch(
        "long",
        [helper.make_node("MatMul", ["x", "w"], ["b"], "two"), helper.make_node("MatMul", ["b", "r"], ["c"], "three")],
    )
    other = branch("other", [helper.make_node("Squeeze", ["chosen", "zero"], ["d"])])
    product = branch("product", [helper.make_node("MatMul", ["chosen", "r"], ["e"], "four")])
    return model_of(
        [
            helper.make_node("Equal", [rate, "wanted"], ["is_wanted"]),
            helper.make_node("If", ["is_wanted"], ["chosen"], "first", then_branch=short, else_branch=long),
            helper.make_node("Shape", ["chosen"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "zero"], ["rows"]),
            helper.make_node("Equal", ["rows", "batch"], ["is_batch"]),
            helper.make_node("If", ["is_batch"], ["last"], "second", then_branch=product, else_branch=other),
            helper.make_node("MatMul", ["last", "r"], ["every"], "five"),
        ],
        [value("x", ["n", IN]), value("sr", [], TensorProto.INT64)],
        {"wanted": np.array(16000), "zero": np.array([0]), "batch": np.array([BATCH])},
    )


@pytest.mark.parametrize(("rate", "macs"), [(16000, IN * HIDDEN + 2 * HIDDEN**2), (8000, IN * HIDDEN + 3 * HIDDEN**2)])
def test_the_branch_that_a_constant_input_chooses_is_counted_and_what_follows_has_its_shapes(
    rate: int, macs: int
) -> None:
    found = costs(branches(), inputs={"x": (BATCH, IN), "sr": ()}, values={"sr": np.array(rate)})
    assert sum(cost.macs or 0 for cost in found) == BATCH * macs
    assert all(cost.macs is not None for cost in found)


def test_without_it_what_both_branches_multiply_is_unknown() -> None:
    found = count_macs(branches(), inputs={"x": (BATCH, IN), "sr": ()})
    assert found == Count(2 * BATCH * HIDDEN**2, {"MatMul": 3})  # the second If reads the same shape from either


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node.attribute[0].g.output.pop(),
        lambda node: node.attribute.append(helper.make_attribute("num_scan_inputs", 9)),
        lambda node: node.input.pop(),
    ],
)
@pytest.mark.parametrize("make", [scan, loop])
def test_a_node_that_is_not_as_onnx_says_is_unknown(
    make: Callable[[], onnx.ModelProto], change: Callable[[NodeProto], object]
) -> None:
    model = make()
    change(next(node for node in model.graph.node if node.op_type in ("Scan", "Loop")))
    assert count_macs(model, inputs=SHAPES).known >= 0
