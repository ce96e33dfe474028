"""Sizes as numbers: what is counted is what ONNX computes, and files whose sizes are computed are exported with them."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

torch = pytest.importorskip("torch")

from compressctl.core.errors import StageError  # noqa: E402
from compressctl.core.model import TorchModel  # noqa: E402
from compressctl.graph.execute import ActivationRecorder  # noqa: E402
from compressctl.graph.lower import lower  # noqa: E402
from compressctl.sources.graph_network.numbers import as_list, as_tensor, can_count, counted  # noqa: E402
from compressctl.sources.onnx_file import load  # noqa: E402
from compressctl.sources.params import OnnxParams  # noqa: E402

INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT
NUMBERS = st.integers(-40, 40)
LISTS = st.lists(NUMBERS, min_size=1, max_size=6)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[Any], dict[str, Any]]:
    """An operator, what it reads (numbers and lists in lists of them) and its attributes."""
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Equal", "Where", "Neg", "ReduceProd", "Reshape", "Transpose", "Slice", "Concat", "Gather", "Unsqueeze", "Squeeze", "ConstantOfShape", "Cast", "Ceil", "Floor"]))  # fmt: skip
    values = draw(LISTS)
    rows = draw(st.integers(1, 3))
    table = [draw(st.lists(NUMBERS, min_size=2, max_size=2)) for _ in range(rows)]
    halves = draw(st.lists(st.integers(-20, 20).map(lambda one: one / 4), min_size=1, max_size=4))
    if op in ("Add", "Sub", "Mul", "Min", "Max", "Equal"):
        return op, [values, draw(st.one_of(NUMBERS, st.just(values[::-1])))], {}
    if op == "Mod":
        return op, [values, draw(NUMBERS.filter(bool))], {"fmod": draw(st.integers(0, 1))}
    if op == "Div":
        if draw(st.booleans()):
            return op, [halves, draw(st.sampled_from([2.0, 0.5, 3.0]))], {}
        return op, [values, draw(NUMBERS.filter(bool))], {}
    if op == "Where":
        return op, [[one > 0 for one in values], values, values[::-1]], {}
    if op == "ReduceProd":
        return op, [[one % 5 for one in values]], {"keepdims": draw(st.integers(0, 1))}
    if op == "Reshape":
        return op, [table, draw(st.sampled_from([[-1], [2, -1], [0, 2], [1, -1, 2]]))], {}
    if op == "Transpose":
        return op, [table], draw(st.sampled_from([{}, {"perm": [1, 0]}]))
    if op == "Slice":
        start, end = draw(st.sampled_from([(-1, -(2**63) + 1), (5, -7), (0, 2), (1, 2**63 - 1), (-2, 10**9)]))
        step = -1 if start in (-1, 5) else draw(st.integers(1, 2))
        return op, [table, [start], [end], [draw(st.integers(-2, 1))], [step]], {}
    if op == "Concat":
        return op, [values, values[:1], values], {"axis": 0}
    if op == "Gather":
        return op, [table, draw(st.sampled_from([0, -1, [0, -1], [0]]))], {"axis": draw(st.integers(0, 1))}
    if op == "Unsqueeze":
        return op, [values, draw(st.sampled_from([[0], [1], [-1], [0, 2]]))], {}
    if op == "Squeeze":
        return op, [[values]] + ([[0]] if draw(st.booleans()) or len(values) > 1 else []), {}
    if op == "ConstantOfShape":
        return op, [[rows]], {"value": [draw(NUMBERS), INT]}
    if op == "Cast":
        return op, [draw(st.sampled_from([values, halves, [True, False]]))], {"to": draw(st.sampled_from([INT, FLOAT, TensorProto.BOOL]))}  # fmt: skip
    return op, [halves if op in ("Ceil", "Floor") else values], {}


@given(case=cases())
@settings(max_examples=400, deadline=None)
def test_numbers_are_counted_as_onnx_computes_them(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    op, reads, attributes = case
    assert can_count(op, reads, attributes)
    found = counted(op, reads, attributes)
    arrays = [np.array(value, _dtype(value)) for value in reads]
    if "value" in attributes:
        attributes = {"value": helper.make_tensor("v", INT, [1], [attributes["value"][0]])}
    node = helper.make_node(op, [f"x{place}" for place in range(len(reads))], ["y"], **attributes)
    infos = [
        helper.make_tensor_value_info(f"x{place}", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for place, array in enumerate(arrays)
    ]
    graph = helper.make_graph([node], "one", infos, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (wanted,) = ReferenceEvaluator(model).run(None, {f"x{place}": array for place, array in enumerate(arrays)})
    assert np.shape(found) == wanted.shape
    assert np.array_equal(np.array(found, wanted.dtype), wanted)
    assert np.array_equal(as_tensor(found).numpy().astype(wanted.dtype), wanted)


def _dtype(value: Any) -> type:
    first = as_list(value)[0]
    return np.bool_ if isinstance(first, bool) else np.float32 if isinstance(first, float) else np.int64


def test_floats_are_counted_in_single_precision() -> None:
    """10 * 0.1 is 1 in float32 and a little more in float64, which rounds up to 2."""
    tenth = float(np.float32(0.1))
    assert math.ceil(10 * tenth) == 2
    assert counted("Ceil", [counted("Mul", [10.0, tenth], {})], {}) == 1


def _file(
    path: Path, nodes: list[onnx.NodeProto], stored: dict[str, Any], size: object, channels: int
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(
        nodes, "net", [value("x", FLOAT, ["n", 3, size, size])], [value("y", FLOAT, ["n", channels, "h", "w"])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return model


def _again(path: Path, shapes: dict[str, int] | None = None) -> onnx.ModelProto:
    made = load(OnnxParams(path=str(path), trainable=True, shapes=shapes or {}), Path(), 0)
    assert isinstance(made, TorchModel)
    return lower(made).body


def _same(one: onnx.ModelProto, other: onnx.ModelProto, size: int) -> bool:
    inputs = {"x": np.random.default_rng(0).normal(0, 1, (3, 3, size, size)).astype(np.float32)}
    first, second = (ActivationRecorder(proto, ["y"]).run(inputs)["y"] for proto in (one, other))
    return first.shape == second.shape and np.allclose(first, second, atol=1e-5)


KERNEL = np.random.default_rng(1).normal(0, 1, (4, 3, 3, 3)).astype(np.float32)


def _borders(first: list[onnx.NodeProto], read: str) -> list[onnx.NodeProto]:
    """What torch's exporter makes of functional.pad: pairs from the last axis on, turned around. read: (left, right, top, bottom)."""
    node = helper.make_node
    return [
        *first,
        node("ConstantOfShape", ["four"], ["rest"], value=helper.make_tensor("v", INT, [1], [0])),
        node("Concat", [read, "rest"], ["all"], axis=0),
        node("Reshape", ["all", "pairs"], ["table"]),
        node("Slice", ["table", "last", "before", "axis", "back"], ["turned"]),
        node("Transpose", ["turned"], ["halves"], perm=[1, 0]),
        node("Reshape", ["halves", "flat"], ["flatly"]),
        node("Cast", ["flatly"], ["pads"], to=INT),
        node("Pad", ["x", "pads", "zero"], ["p"]),
        node("Conv", ["p", "w"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
    ]


STORED = {
    "four": np.array([4]), "pairs": np.array([-1, 2]), "last": np.array([-1]), "before": np.array([-(2**63) + 1]), "axis": np.array([0]),
    "back": np.array([-1]), "flat": np.array([-1]), "zero": np.float32(0), "w": KERNEL,
}  # fmt: skip


def test_constant_borders_that_are_computed_become_constants(tmp_path: Path) -> None:
    whole = _file(tmp_path / "a.onnx", _borders([], "sides"), {**STORED, "sides": np.array([0, 1, 2, 1])}, "size", 4)
    again = _again(tmp_path / "a.onnx")
    assert {node.op_type for node in again.graph.node} <= {"Pad", "Conv"}
    assert _same(whole, again, 8)
    assert _same(whole, again, 13)


def _sides(*rounds_up: onnx.NodeProto) -> list[onnx.NodeProto]:
    """(w2 - 1) * 2 + 3 - w0 on both sides. rounds_up: how half of the width w0 becomes w2."""
    node = helper.make_node
    return [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "three"], ["w0"], axis=0),
        *rounds_up,
        node("Sub", ["w2", "one"], ["w3"]),
        node("Mul", ["w3", "two"], ["w4"]),
        node("Add", ["w4", "three"], ["w5"]),
        node("Sub", ["w5", "w0"], ["w6"]),
        node("Unsqueeze", ["w6", "axis"], ["w7"]),
        node("Concat", ["none", "w7", "none", "w7"], ["sides"], axis=0),
    ]


@pytest.mark.parametrize("size", [8, 13, "size"])
def test_borders_that_follow_the_size_are_counted(tmp_path: Path, size: object) -> None:
    """SAME borders: (ceil(size / 2) - 1) * 2 + 3 - size in whole numbers."""
    node = helper.make_node
    counts = _sides(node("Add", ["w0", "one"], ["w1"]), node("Div", ["w1", "two"], ["w2"]))
    stored = {**STORED, "one": np.array(1), "two": np.array(2), "three": np.array(3), "none": np.array([0])}
    whole = _file(tmp_path / "a.onnx", _borders(counts, "sides"), stored, size, 4)
    again = _again(tmp_path / "a.onnx")
    for tried in (8, 13) if size == "size" else (size,):
        assert _same(whole, again, tried)


def _in_floats() -> list[onnx.NodeProto]:
    """The same by way of floats, as timm's networks round up."""
    node = helper.make_node
    return _sides(
        node("Cast", ["w0"], ["f0"], to=FLOAT),
        node("Div", ["f0", "half"], ["f1"]),
        node("Ceil", ["f1"], ["f2"]),
        node("Cast", ["f2"], ["w2"], to=INT),
    )


IN_FLOATS = {
    **STORED, "one": np.array(1), "two": np.array(2), "three": np.array(3), "none": np.array([0]), "half": np.float32(2),
}  # fmt: skip


@pytest.mark.parametrize("size", [8, 13])
def test_sizes_that_go_through_floats_are_counted_where_they_are_fixed(tmp_path: Path, size: int) -> None:
    whole = _file(tmp_path / "a.onnx", _borders(_in_floats(), "sides"), IN_FLOATS, size, 4)
    assert _same(whole, _again(tmp_path / "a.onnx"), size)


def test_sizes_that_are_values_of_a_tensor_are_named(tmp_path: Path) -> None:
    _file(tmp_path / "a.onnx", _borders(_in_floats(), "sides"), IN_FLOATS, "size", 4)
    with pytest.raises(
        StageError, match=r"Pad.*\bp\b.*reads sizes that are computed as floats or from values"
    ) as caught:
        _again(tmp_path / "a.onnx")
    assert "shapes" in str(caught.value.hint)
    whole = onnx.load(tmp_path / "a.onnx")
    assert _same(whole, _again(tmp_path / "a.onnx", {"size": 8}), 8)


def _counts(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The height and the width as h and w, then these, then what is made of them around a convolution's maps."""
    node = helper.make_node
    return [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "two"], ["h"], axis=0),
        node("Gather", ["sizes", "three"], ["w0"], axis=0),
        node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        *nodes,
    ]


NUMBERS_STORED = {
    "w": KERNEL, "axis": np.array([0]), "axes": np.array([2]), "none": np.array([0]), "one": np.array(1), "two": np.array(2), "three": np.array(3),
    "eight": np.array(8), "five": np.float32(5),
}  # fmt: skip
_node = helper.make_node
CROP = (_node("Unsqueeze", ["k", "axis"], ["end"]), _node("Slice", ["c", "none", "end", "axes"], ["y"]))
ASKS = {
    "min": (_node("Min", ["h", "eight"], ["k"]), *CROP),
    "max": (_node("Max", ["h", "eight"], ["m"]), _node("Sub", ["m", "two"], ["k"]), *CROP),
    "equal": (_node("Equal", ["h", "eight"], ["e"]), _node("Where", ["e", "two", "three"], ["k"]), *CROP),
    "bool": (_node("Mod", ["h", "two"], ["r"]), _node("Cast", ["r"], ["e"], to=TensorProto.BOOL), _node("Where", ["e", "two", "three"], ["k"]), *CROP),
    "bool to int": (_node("Cast", ["h"], ["e"], to=TensorProto.BOOL), _node("Cast", ["e"], ["k"], to=INT), *CROP),
    "fmod": (_node("Mod", ["h", "three"], ["r"], fmod=1), _node("Add", ["r", "one"], ["k"]), *CROP),
    "range": (
        _node("Cast", ["w0"], ["f"], to=FLOAT), _node("Div", ["f", "five"], ["g"]), _node("Cast", ["g"], ["limit"], to=INT), _node("Range", ["zeroth", "limit", "one"], ["r"]),
        _node("Shape", ["r"], ["count"]), _node("Squeeze", ["count"], ["k"]), *CROP,
    ),
}  # fmt: skip


class NamedError(Exception):
    """A refusal that says where it is."""


def _named(path: Path) -> onnx.ModelProto:
    try:
        return _again(path)
    except StageError as error:
        if "reads sizes" in str(error) or "as a number" in str(error):
            raise NamedError from error
        raise


@pytest.mark.parametrize("name", ASKS)
def test_what_an_open_size_decides_is_never_decided_while_tracing(tmp_path: Path, name: str) -> None:
    """It follows the size in the file too, or is refused; where the size is fixed it is a number."""
    stored = {**NUMBERS_STORED, "zeroth": np.array(0)}
    for size in (7, 8, 30):
        whole = _file(tmp_path / "a.onnx", _counts(*ASKS[name]), stored, size, 4)
        assert _same(whole, _again(tmp_path / "a.onnx"), size)
    whole = _file(tmp_path / "a.onnx", _counts(*ASKS[name]), stored, "size", 4)
    with suppress(NamedError):
        again = _named(tmp_path / "a.onnx")
        for size in (7, 8, 30, 97):
            assert _same(whole, again, size)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("window", [2, 3, 5])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_same_borders_follow_an_open_size(tmp_path: Path, mode: str, window: int, stride: int) -> None:
    kernel = np.random.default_rng(1).normal(0, 1, (4, 3, window, window)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[window] * 2, strides=[stride] * 2, auto_pad=mode)
    whole = _file(tmp_path / "a.onnx", [node], {"w": kernel}, "size", 4)
    again = _again(tmp_path / "a.onnx")
    for size in (9, 10, 11, 33):
        assert _same(whole, again, size)


@pytest.mark.parametrize("size", [10, "size"])
def test_scales_are_multiplied_in_single_precision(tmp_path: Path, size: object) -> None:
    """10 * 0.7 is 7 there, and less in double."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["c", "", "scales"], ["y"], mode="linear"),
    ]
    scales = np.array([1, 1, 0.7, 0.7], np.float32)
    whole = _file(tmp_path / "a.onnx", nodes, {"w": KERNEL, "scales": scales}, size, 4)
    made = load(OnnxParams(path=str(tmp_path / "a.onnx"), trainable=True), Path(), 0)
    assert isinstance(made, TorchModel)
    for tried in (10, 20, 13) if size == "size" else (size,):
        inputs = np.random.default_rng(0).normal(0, 1, (3, 3, tried, tried)).astype(np.float32)  # type: ignore[arg-type]
        with torch.no_grad():
            found = made.body(torch.from_numpy(inputs))["y"].numpy()
        wanted = ActivationRecorder(whole, ["y"]).run({"x": inputs})["y"]
        assert found.shape == wanted.shape
        assert np.allclose(found, wanted, atol=1e-4)
        assert _same(whole, lower(made).body, tried)  # type: ignore[arg-type]


@pytest.mark.parametrize("pads", [[0, 0, 0, 1, 0, 0, 0, 2], [0, 0, 2, 0, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0, 1, 1]])
@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_one_axis_alone_is_mirrored(tmp_path: Path, mode: str, pads: list[int]) -> None:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"], mode=mode),
        helper.make_node("Conv", ["p", "w"], ["y"], kernel_shape=[3, 3]),
    ]
    whole = _file(tmp_path / "a.onnx", nodes, {"w": KERNEL, "pads": np.array(pads)}, "size", 4)
    again = _again(tmp_path / "a.onnx")
    for size in (8, 13):
        assert _same(whole, again, size)


@pytest.mark.parametrize("end", [10**9, 2**31 - 1, 2**63 - 1])
def test_a_slice_to_the_end_leaves_an_open_axis_open(tmp_path: Path, end: int) -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        node("Slice", ["c", "from", "to", "axes"], ["y"]),
    ]
    stored = {"w": KERNEL, "from": np.array([0, 1]), "to": np.array([end, end]), "axes": np.array([0, 3])}
    whole = _file(tmp_path / "a.onnx", nodes, stored, "size", 4)
    again = _again(tmp_path / "a.onnx")
    assert again.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert _same(whole, again, 8)


def test_one_state_for_all_samples_begins_a_recurrent_layer(tmp_path: Path) -> None:
    """Expanded to as many as there are: exported as a loop, which wants its states laid out alike."""
    node, value, random = helper.make_node, helper.make_tensor_value_info, np.random.default_rng(2)
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "axis"], ["n"], axis=0),
        node("Concat", ["one", "n", "hidden"], ["wanted"], axis=0),
        node("Expand", ["state", "wanted"], ["first"]),
        node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        node("GRU", ["steps", "w", "r", "b", "", "first"], ["every", ""], hidden_size=6, linear_before_reset=1),
        node("Squeeze", ["every", "one"], ["y"]),
    ]
    stored = {
        "axis": np.array([0]), "one": np.array([1]), "hidden": np.array([6]), "state": np.full((1, 1, 6), 0.5, np.float32),
        "w": random.normal(0, 1, (1, 18, 5)).astype(np.float32), "r": random.normal(0, 1, (1, 18, 6)).astype(np.float32),
        "b": random.normal(0, 1, (1, 36)).astype(np.float32),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    # Outputs count samples along their first axis.
    nodes.append(node("Transpose", ["y"], ["z"], perm=[1, 0, 2]))
    graph = helper.make_graph(
        nodes, "net", [value("x", FLOAT, ["n", "t", 5])], [value("z", FLOAT, ["n", "t", 6])], tensors
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(whole, tmp_path / "a.onnx")
    again = _again(tmp_path / "a.onnx")
    inputs = {"x": random.normal(0, 1, (3, 7, 5)).astype(np.float32)}
    first, second = (ActivationRecorder(proto, ["z"]).run(inputs)["z"] for proto in (whole, again))
    assert np.allclose(first, second, atol=1e-5)
