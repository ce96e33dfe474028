"""Costs of graphs against counts that share nothing with ours: loops over real arrays, and shapes that ONNX Runtime reports."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.costs import total_macs, total_parameters

from compressctl.core.count import Count
from compressctl.graph.cost import NodeCost, costs, count_macs, executed_macs
from compressctl.graph.shapes import shapes

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def value(name: str, shape: Sequence[int | str | None] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name: str, *shape: int, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(0).standard_normal(shape).astype(dtype), name)


def integers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    tensors: Sequence[onnx.TensorProto] = (),
    output: str = "y",
    opset: int = 17,
    **more: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, [value(output, None)], tensors)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=9, **more)


def run_shapes(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the main graph, as ONNX Runtime really makes it."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = session.run(names, dict(feeds))
    found = {name: tuple(array.shape) for name, array in zip(names, made, strict=True)}
    found |= {name: tuple(array.shape) for name, array in feeds.items()}
    return found | {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def multiplications(node: onnx.NodeProto, shape: Mapping[str, tuple[int, ...]]) -> int:
    """Counted element by element of the output, from the definition of each operator."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    of = [shape[name] if name else () for name in node.input]
    out = shape[node.output[0]]
    if node.op_type == "Conv":
        channels, kernel = of[0][1] // attributes.get("group", 1), of[1][2:]
        return sum(channels * math.prod(kernel) for _ in np.ndindex(*out))
    if node.op_type == "ConvTranspose":
        return sum(of[1][1] * math.prod(of[1][2:]) for _ in np.ndindex(*of[0]))
    if node.op_type == "MatMul":
        return sum(of[0][-1] for _ in np.ndindex(*out))
    if node.op_type == "Gemm":
        inner = of[0][0] if attributes.get("transA", 0) else of[0][1]
        return sum(inner for _ in np.ndindex(*out))
    return 0


@st.composite
def chains(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Convolutions on an image whose batch, height and width are open, then a head of products; and a real shape for it."""
    nodes, tensors, channels = [], [], draw(st.integers(1, 4))
    batch, height, width = draw(st.integers(1, 2)), draw(st.integers(8, 11)), draw(st.integers(8, 11))
    inputs, current = [value("x", ["N", channels, "H", None])], "x"
    for number in range(draw(st.integers(1, 3))):
        kind, name = draw(st.sampled_from(["Conv", "depthwise", "ConvTranspose", "MaxPool", "Relu"])), f"t{number}"
        if kind in ("Conv", "ConvTranspose"):
            out, kernel = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3]))
            sides = (out, channels) if kind == "Conv" else (channels, out)
            tensors.append(weight(f"w{number}", *sides, kernel, kernel))
            pads = [draw(st.integers(0, 1))] * 4 if kernel > 1 else [0] * 4
            strides = [draw(st.integers(1, 2))] * 2 if kind == "Conv" else [1, 1]
            nodes.append(helper.make_node(kind, [current, f"w{number}"], [name], pads=pads, strides=strides))
            channels = out
        elif kind == "depthwise":
            tensors.append(weight(f"w{number}", channels, 1, 2, 2))
            nodes.append(helper.make_node("Conv", [current, f"w{number}"], [name], group=channels))
        elif kind == "MaxPool":
            nodes.append(helper.make_node("MaxPool", [current], [name], kernel_shape=[2, 2]))
        else:
            nodes.append(helper.make_node("Relu", [current], [name]))
        current = name
    out = draw(st.integers(1, 5))
    if draw(st.booleans()):
        tensors.append(weight("head", *draw(st.permutations((channels, out)))))
        transposed = int(tensors[-1].dims[0] == out and out != channels)
        nodes += [
            helper.make_node("GlobalAveragePool", [current], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "head"], ["y"], transB=transposed),
        ]
    else:
        tensors += [integers("merged", 0, 0, -1), weight("head", channels, out)]
        nodes += [
            helper.make_node("Reshape", [current, "merged"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["turned", "head"], ["scores"]),
            helper.make_node("Transpose", ["turned"], ["back"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["back", "scores"], ["y"]),
        ]
    return graph_of(nodes, inputs, tensors), (batch, inputs[0].type.tensor_type.shape.dim[1].dim_value, height, width)


@settings(max_examples=60)
@given(chains())
def test_macs_at_a_real_shape_are_those_of_what_runs(case: tuple[onnx.ModelProto, tuple[int, ...]]) -> None:
    model, shape = case
    made = run_shapes(model, {"x": np.zeros(shape, np.float32)})
    assert total_macs(model, inputs={"x": shape}) == sum(multiplications(node, made) for node in model.graph.node)
    found = shapes(model, inputs={"x": shape})
    assert {name: found[name] for name in made} == made


@settings(max_examples=60)
@given(chains())
def test_sizes_by_symbol_and_by_axis_count_what_a_shape_counts(
    case: tuple[onnx.ModelProto, tuple[int, ...]],
) -> None:
    model, shape = case
    sizes = {"N": shape[0], "H": shape[2], "x.3": shape[3]}
    assert total_macs(model, sizes) == total_macs(model, inputs={"x": shape}) is not None
    assert total_macs(model, {"x.0": shape[0], "x.2": shape[2], "x.3": shape[3]}) == total_macs(model, sizes)


@settings(max_examples=60)
@given(chains())
def test_a_multiplication_never_counts_nothing_where_its_shapes_are_unknown(
    case: tuple[onnx.ModelProto, tuple[int, ...]],
) -> None:
    model, shape = case
    real = {cost.name: cost.macs for cost in costs(model, inputs={"x": (1, *shape[1:])})}
    for cost in costs(model):
        assert cost.macs in (None, real[cost.name])
        assert cost.macs != 0 or real[cost.name] == 0
    count = count_macs(model)
    assert count.known <= sum(macs or 0 for macs in real.values())
    assert (total_macs(model) is None) == bool(count.unknown)


def by_op(found: Sequence[NodeCost]) -> dict[str, NodeCost]:
    return {cost.op: cost for cost in found}


@pytest.mark.parametrize("stated", [0, -1])
def test_a_size_of_zero_or_less_is_an_open_axis(stated: int) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    model = graph_of(nodes, [value("x", [stated, 2, stated, 8])], [weight("w", 4, 2, 3, 3)])
    assert shapes(model)["y"] == (1, 4, None, 6)
    assert total_macs(model) is None
    assert total_macs(model, {"x.2": 5}) == 4 * 3 * 6 * 2 * 9
    assert total_macs(model, inputs={"x": (2, 2, 5, 8)}) == 2 * 4 * 3 * 6 * 2 * 9


def test_only_an_open_axis_that_counts_samples_is_taken_for_the_batch() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    tensors = [weight("w", 8, 4)]
    assert total_macs(graph_of(nodes, [value("x", ["N", 8])], tensors)) == 32
    assert total_macs(graph_of(nodes, [value("x", [16, "N", 8])], tensors)) == 16 * 32
    assert total_macs(graph_of(nodes, [value("x", [16, "time", 8])], tensors)) is None
    assert total_macs(graph_of(nodes, [value("x", [3, 8])], tensors)) == 96


@pytest.mark.parametrize(
    ("inputs", "message"),
    [({"z": (1, 8)}, "no input 'z'"), ({"x": (1, 2, 8)}, "not 1x2x8"), ({"x": (1, 9)}, r"is Nx8, not 1x9")],
)
def test_a_shape_that_is_not_the_graphs_is_refused(inputs: dict[str, Sequence[int]], message: str) -> None:
    model = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", ["N", 8])], [weight("w", 8, 4)])
    with pytest.raises(ValueError, match=message):
        shapes(model, inputs=inputs)


LSTM_STEPS, LSTM_BATCH, LSTM_IN, LSTM_HIDDEN = 5, 2, 3, 4


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_a_recurrent_layer_counts_every_weight_at_every_step(op: str, gates: int, directions: int) -> None:
    tensors = [
        weight("W", directions, gates * LSTM_HIDDEN, LSTM_IN),
        weight("R", directions, gates * LSTM_HIDDEN, LSTM_HIDDEN),
        weight("B", directions, 2 * gates * LSTM_HIDDEN),
    ]
    direction = "bidirectional" if directions == 2 else "forward"
    node = helper.make_node(op, ["x", "W", "R", "B"], ["y"], hidden_size=LSTM_HIDDEN, direction=direction)
    model = graph_of([node], [value("x", ["T", "N", LSTM_IN])], tensors)
    counted = 0
    for _ in np.ndindex(LSTM_STEPS, LSTM_BATCH, directions, gates, LSTM_HIDDEN):
        counted += LSTM_IN + LSTM_HIDDEN
    shape = (LSTM_STEPS, LSTM_BATCH, LSTM_IN)
    assert total_macs(model, inputs={"x": shape}) == counted
    assert count_macs(model) == Count(0, {op: 1})
    assert total_parameters(model) == sum(math.prod(tensor.dims) for tensor in tensors)
    assert shapes(model, inputs={"x": shape})["y"] == run_shapes(model, {"x": np.zeros(shape, np.float32)})["y"]


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("bij,jk->bik", (2, 3, 4), (4, 5)),
        ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)),
        ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 6)),
        ("i,j->ij", (3,), (4,)),
        ("bij,bjk", (1, 3, 4), (2, 4, 5)),
    ],
)
def test_an_einsum_counts_its_loop(equation: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    model = graph_of(
        [helper.make_node("Einsum", ["x", "z"], ["y"], equation=equation)], [value("x", left), value("z", right)]
    )
    # The product of the two broadcast against each other before summing: one element for each multiplication.
    terms, _, _ = equation.partition("->")
    letters = sorted({letter for letter in terms if letter.isalpha()})
    ones = "..." if "." in equation else ""
    unsummed = np.einsum(f"{terms}->{ones}{''.join(letters)}", np.ones(left), np.ones(right))
    assert total_macs(model) == unsummed.size


def test_an_einsum_of_one_or_three_operands() -> None:
    one = graph_of([helper.make_node("Einsum", ["x"], ["y"], equation="ij->ji")], [value("x", (2, 3))])
    three = [helper.make_node("Einsum", ["x", "x", "x"], ["y"], equation="ij,ij,ij->i")]
    assert total_macs(one) == 0
    assert total_macs(graph_of(three, [value("x", (2, 3))])) is None


@pytest.mark.parametrize("past", [0, 7])
def test_attention_counts_scores_and_sums(past: int) -> None:
    heads, kv_heads, steps, size, value_size = 6, 2, 5, 8, 3
    inputs = [
        value("q", [2, heads, steps, size]),
        value("k", [2, kv_heads, steps, size]),
        value("v", [2, kv_heads, steps, value_size]),
    ]
    names = ["q", "k", "v"]
    if past:
        inputs += [value("pk", [2, kv_heads, past, size]), value("pv", [2, kv_heads, past, value_size])]
        names += ["", "pk", "pv"]
    outputs = ["y", "nk", "nv"] if past else ["y"]
    model = graph_of([helper.make_node("Attention", names, outputs)], inputs, opset=23)
    counted = sum(size + value_size for _ in np.ndindex(2, heads, steps, steps + past))
    assert total_macs(model) == counted


def test_attention_with_heads_side_by_side_counts_the_same() -> None:
    inputs = [value("q", [2, 5, 48]), value("k", [2, 7, 16]), value("v", [2, 7, 6])]
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=6, kv_num_heads=2)
    assert total_macs(graph_of([node], inputs, opset=23)) == 2 * 6 * 5 * 7 * (8 + 3)


@pytest.mark.parametrize("op", ["DFT", "MyLayer", "MoE", "QMoE"])
def test_what_has_no_formula_is_unknown(op: str) -> None:
    domain = {"MyLayer": "somebody", "MoE": "com.microsoft", "QMoE": "com.microsoft"}.get(op, "")
    model = graph_of([helper.make_node(op, ["x"], ["y"], domain=domain)], [value("x", [1, 8, 2])], opset=20)
    assert count_macs(model) == Count(0, {op: 1})


def test_experts_count_those_that_are_chosen() -> None:
    inputs = [
        value("x", [5, 8]),
        value("p", [5, 6]),
        value("up", [6, 3, 8]),
        value("ub", [6, 3]),
        value("down", [6, 8, 3]),
    ]
    node = helper.make_node("MoE", ["x", "p", "up", "ub", "down"], ["y"], domain="com.microsoft", k=2)
    assert total_macs(graph_of([node], inputs)) == 5 * 2 * (3 * 8 + 8 * 3)


def test_behind_the_runtimes_own_operators_shapes_go_on() -> None:
    """What quantizing dynamically writes: one of these hid every later layer."""
    microsoft = "com.microsoft"
    nodes = [
        helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["a"], domain=microsoft),
        helper.make_node("Gelu", ["a"], ["b"], domain=microsoft),
        helper.make_node("FusedMatMul", ["b", "t"], ["c"], domain=microsoft, transB=1),
        helper.make_node("MatMulNBits", ["c", "p", "ps"], ["d"], domain=microsoft, K=32, N=6, bits=4, block_size=32),
        helper.make_node("SkipLayerNormalization", ["d", "d", "g"], ["y"], domain=microsoft),
    ]
    tensors = [
        numpy_helper.from_array(np.ones((8, 16), np.int8), "w"),
        numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
        weight("t", 32, 16),
        numpy_helper.from_array(np.full((6, 1, 16), 0x88, np.uint8), "p"),
        weight("ps", 6),
        weight("g", 6),
    ]
    model = graph_of(nodes, [value("x", ["N", "T", 8])], tensors)
    shape = (2, 3, 8)
    made = run_shapes(model, {"x": np.ones(shape, np.float32)})
    found = shapes(model, inputs={"x": shape})
    assert {name: found[name] for name in made} == made
    assert total_macs(model, inputs={"x": shape}) == 2 * 3 * (8 * 16 + 16 * 32 + 32 * 6)
    assert count_macs(model) == Count(0, {"DynamicQuantizeMatMul": 1, "FusedMatMul": 1, "MatMulNBits": 1})


def test_shapes_follow_arithmetic_on_shapes() -> None:
    """ONNX's inference alone stops at this: an Expand to what Where and Equal make, as PyTorch exports it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "from", "to"], ["tail"]),
        helper.make_node("Concat", ["minus", "tail"], ["wanted"], axis=0),
        helper.make_node("Shape", ["wanted"], ["rank"]),
        helper.make_node("ConstantOfShape", ["rank"], ["ones"], value=integers("one", 1)),
        helper.make_node("Mul", ["ones", "minus"], ["all_minus"]),
        helper.make_node("Equal", ["wanted", "all_minus"], ["is_minus"]),
        helper.make_node("Where", ["is_minus", "ones", "wanted"], ["target"]),
        helper.make_node("Expand", ["row", "target"], ["many"]),
        helper.make_node("MatMul", ["x", "many"], ["y"]),
    ]
    tensors = [integers("from", 1), integers("to", 3), integers("minus", -1), weight("row", 1, 1)]
    model = graph_of(nodes, [value("x", ["N", "T", "T"])], tensors)
    shape = (1, 4, 4)
    made = run_shapes(model, {"x": np.zeros(shape, np.float32)})
    assert shapes(model, inputs={"x": shape})["many"] == made["many"] == (1, 4, 4)
    assert total_macs(model, inputs={"x": shape}) == 4 * 4 * 4


def test_the_models_own_functions_are_looked_into() -> None:
    function = helper.make_function(
        "mine", "Twice", ["a", "m"], ["b"],
        [helper.make_node("MatMul", ["a", "m"], ["h"]), helper.make_node("MatMul", ["h", "m"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x", "w"], ["y"], domain="mine")],
        "g",
        [value("x", ["N", 8])],
        [value("y", None)],
        [weight("w", 8, 8)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=9)
    assert (total_macs(model), total_parameters(model)) == (2 * 64, 64)


def test_weights_in_constant_nodes_are_parameters() -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value=weight("k", 4, 2, 3, 3, dtype=np.float16)),
        helper.make_node("Cast", ["k"], ["w"], to=FLOAT),
        helper.make_node("Constant", [], ["bias"], value_floats=[0.5, 1.5, 2.5, 3.5]),
        helper.make_node("Conv", ["x", "w", "bias"], ["y"]),
    ]
    found = by_op(costs(graph_of(nodes, [value("x", [1, 2, 8, 8])])))
    conv = sum(cost.parameters for cost in found.values()), sum(cost.parameter_bytes for cost in found.values())
    assert conv == (4 * 2 * 9 + 4, 2 * 4 * 2 * 9 + 4 * 4)
    assert found["Conv"].macs == 4 * 6 * 6 * 2 * 9


def branch(name: str, tensors: Sequence[onnx.TensorProto] = ()) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Constant", [], [f"{name}w"], value=weight("v", 8, 4)),
        helper.make_node("MatMul", ["x", f"{name}w"], [f"{name}m"], name="product"),
        helper.make_node("Add", [f"{name}m", "shared"], [f"{name}o"]),
    ]
    return helper.make_graph(nodes, name, [], [value(f"{name}o", None)], tensors)


def test_weights_in_bodies_are_parameters_and_what_runs_there_is_unknown() -> None:
    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch("a"), else_branch=branch("b"))
    model = graph_of([node], [value("x", ["N", 8]), value("c", [], TensorProto.BOOL)], [weight("shared", 4)])
    found = costs(model)
    assert total_parameters(model) == 2 * 32 + 4
    assert count_macs(model) == Count(0, {"MatMul": 2})
    products = {cost.name: cost.within for cost in found if cost.op == "MatMul"}
    assert products == {"choice/then_branch/product": "choice", "choice/else_branch/product": "choice"}
    assert executed_macs(found) == {"choice": None}


def table(kind: str, dtype: Any) -> np.ndarray:
    frequencies = 1.0 / 10000.0 ** (np.arange(0, 32, 2) / 32)
    angles = np.arange(64)[:, None] * frequencies
    made = {
        "cosines": np.cos(angles),
        "cosines twice": np.cos(np.concatenate([angles, angles], axis=1))[None],
        "sines": np.sin(angles),
        "both": np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(64, -1),
        "frequencies": frequencies,
        "positions": np.arange(64),
        "causal mask": np.where(np.tri(64), 0.0, -10000.0),
        "lower triangle": np.tri(64)[None, None],
    }
    return np.asarray(made[kind]).astype(dtype)


TABLES = ["cosines", "cosines twice", "sines", "both", "frequencies", "positions", "causal mask", "lower triangle"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", TABLES)
def test_tables_that_a_formula_gives_are_no_parameters(kind: str, dtype: Any) -> None:
    values = numpy_helper.from_array(table(kind, dtype), "t")
    model = graph_of([helper.make_node("Mul", ["x", "t"], ["y"])], [value("x", ["N"])], [values])
    (cost,) = costs(model)
    assert (cost.parameters, cost.parameter_bytes) == (0, len(values.raw_data))


LEARNED = {
    "noise": np.random.default_rng(1).standard_normal((64, 32)),
    "ones": np.ones((64, 32)),
    "zeros": np.zeros(64),
    "a ramp in every column": np.arange(64.0)[:, None] * np.ones(8),
    "rank one": np.outer(np.random.default_rng(2).standard_normal(64), np.ones(16)),
    "a norm's scale": 1 + 0.01 * np.random.default_rng(3).standard_normal(64),
    "binary": np.sign(np.random.default_rng(4).standard_normal((64, 64))),
    "smooth": np.cumsum(np.random.default_rng(5).standard_normal((64, 16)), axis=0),
    "cosines that were trained": np.cos(np.arange(64)[:, None] * np.geomspace(1, 0.01, 16))
    + 0.1 * np.random.default_rng(6).standard_normal((64, 16)),
}


@pytest.mark.parametrize("kind", LEARNED)
def test_what_may_be_learned_is_a_parameter(kind: str) -> None:
    values = numpy_helper.from_array(LEARNED[kind].astype(np.float32), "t")
    model = graph_of([helper.make_node("Mul", ["x", "t"], ["y"])], [value("x", ["N"])], [values])
    assert total_parameters(model) == LEARNED[kind].size


def test_codes_behind_a_cast_are_parameters_and_positions_are_not() -> None:
    nodes = [
        helper.make_node("Cast", ["codes"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["w"]),
        helper.make_node("Cast", ["positions"], ["p"], to=FLOAT),
        helper.make_node("Add", ["x", "p"], ["moved"]),
        helper.make_node("MatMul", ["moved", "w"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(np.ones((8, 4), np.int8), "codes"),
        numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
        integers("positions", *range(8)),
    ]
    assert total_parameters(graph_of(nodes, [value("x", ["N", 8])], tensors)) == 8 * 4 + 1


@pytest.mark.parametrize(
    ("name", "bits"), [("FLOAT16", 16), ("BFLOAT16", 16), ("FLOAT8E4M3FN", 8), ("FLOAT8E5M2", 8), ("FLOAT4E2M1", 4)]
)
def test_small_floats_count_by_their_own_size(name: str, bits: int) -> None:
    kind = TensorProto.DataType.Value(name)
    tensor = onnx.TensorProto(name="w", data_type=kind, dims=(8, 4), raw_data=bytes(8 * 4 * bits // 8))
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=FLOAT), helper.make_node("MatMul", ["x", "f"], ["y"])]
    found = costs(graph_of(nodes, [value("x", ["N", 8])], [tensor], opset=23))
    assert (sum(cost.parameters for cost in found), sum(cost.parameter_bytes for cost in found)) == (32, 4 * bits)


def test_a_linear_model_holds_its_numbers_in_attributes() -> None:
    node = helper.make_node(
        "LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", coefficients=[0.1] * 8, intercepts=[0.0, 1.0], targets=2
    )
    (cost,) = costs(graph_of([node], [value("x", ["N", 4])]))
    assert (cost.parameters, cost.parameter_bytes, cost.macs) == (10, 40, 8)
