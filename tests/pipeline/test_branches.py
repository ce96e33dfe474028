"""Graphs with bodies (If, Loop) that read what stands around them, and other forms that are valid and rarely seen."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import compressctl
from compressctl.graph.canonical import canonical
from compressctl.graph.index import captured, index, names_read, rename_reads, store_what_is_read

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def _weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array((RNG.standard_normal(shape) * 0.2).astype(np.float32), name)


def _value(name: str, shape: list[Any], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _branch(name: str, reads: str, weight: str) -> onnx.GraphProto:
    """Multiplies an activation of the graph around it by a weight of the graph around it, and adds one of its own."""
    nodes = [
        helper.make_node("MatMul", [reads, weight], [f"{name}_t"], f"{name}_matmul"),
        helper.make_node("Add", [f"{name}_t", f"{name}_own"], [f"{name}_out"], f"{name}_add"),
    ]
    return helper.make_graph(nodes, name, [], [_value(f"{name}_out", ["N", 32])], [_weight(f"{name}_own", 32)])


def _save(folder: Path) -> None:
    """An activation that an If reads from inside, a weight that a product and a branch share, a Constant node that a branch
    reads and that is an output too, and weights that are listed among the inputs, as up to IR 3 all had to be."""
    constant = numpy_helper.from_array(np.full((32, 32), 0.05, np.float32))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"], "first"),
        helper.make_node("Relu", ["t"], ["r"], "relu"),
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("MatMul", ["r", "shared"], ["u"], "second"),
        helper.make_node("ReduceMean", ["u"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["positive"], to=TensorProto.BOOL),
        helper.make_node(
            "If",
            ["positive"],
            ["b"],
            "branches",
            then_branch=_branch("yes", "r", "shared"),
            else_branch=_branch("no", "u", "c"),
        ),
        helper.make_node("MatMul", ["b", "v"], ["y"], "last"),
    ]
    weights = [_weight("w", 64, 32), _weight("shared", 32, 32), _weight("v", 32, 16)]
    inputs = [_value("x", ["N", 64]), *(_value(weight.name, list(weight.dims)) for weight in weights)]
    graph = helper.make_graph(nodes, "g", inputs, [_value("y", ["N", 16]), _value("c", [32, 32])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "m.onnx")


@pytest.mark.parametrize(
    "stage",
    [
        {"use": "quantize.static"},
        *(
            pytest.param(stage, marks=pytest.mark.slow)
            for stage in (
                {"use": "quantize.dynamic"},
                {"use": "quantize.weights", "bits": 8},
                {"use": "cast", "dtype": "float16", "scope": "all"},
                {"use": "share.kmeans", "clusters": 64},
            )
        ),
    ],
    ids=lambda stage: stage["use"],
)
def test_what_a_body_reads_from_around_it_stays_there(tmp_path: Path, stage: dict[str, Any]) -> None:
    _save(tmp_path)
    np.savez(tmp_path / "d.npz", x=RNG.standard_normal((60, 64)).astype(np.float32))
    recipe = {
        "recipe": "compressctl/v1",
        "task": "custom",
        "model": {"source": "onnx", "path": tmp_path / "m.onnx"},
        "data": {"source": "npz", "path": tmp_path / "d.npz", "inputs": "x", "labels": None, "calibration": 30},
        "stages": [{"if_slower": "keep", **stage}],
        "export": ["onnxruntime", "openvino"],
    }
    run = compressctl.apply(recipe, output=tmp_path / "run", measure="quick", cache=False)
    for part in run.report.backends:
        found = part.compressed.fidelity
        assert found is not None
        assert [output.name for output in found.outputs] == ["y", "c"]
        assert all(output.identical or (output.sqnr_db or 0) > 20 for output in found.outputs), found.outputs


def _graph() -> onnx.GraphProto:
    branch = helper.make_graph(
        [helper.make_node("Add", ["a", "own"], ["a_sum"]), helper.make_node("Mul", ["a_sum", "b"], ["out"])],
        "branch",
        [],
        [_value("out", [2])],
        [_weight("own", 2)],
    )
    outer = helper.make_graph(
        [helper.make_node("If", ["q"], ["o"], then_branch=branch, else_branch=branch)], "outer", [], [_value("o", [2])]
    )
    nodes = [helper.make_node("If", ["p"], ["y"], then_branch=outer, else_branch=outer)]
    weights = [_weight(name, 2) for name in ("a", "b", "unread")]
    inputs = [_value(name, [], TensorProto.BOOL) for name in ("p", "q")]
    return helper.make_graph(nodes, "g", inputs, [_value("y", [2])], weights)


def test_what_nested_bodies_read_is_known() -> None:
    graph = _graph()
    assert captured(graph.node[0]) == {"q", "a", "b"}
    assert names_read(graph.node) == {"p", "q", "a", "b"}
    assert set(index(graph).consumers) == {"p", "q", "a", "b"}
    store_what_is_read(graph)
    assert [tensor.name for tensor in graph.initializer] == ["a", "b"]


def test_what_branches_hold_alike_is_stored_once() -> None:
    shared = _weight("w", 32, 32)

    def branch(name: str) -> onnx.GraphProto:
        own = onnx.TensorProto()
        own.CopyFrom(shared)
        own.name = f"{name}_w"
        node = helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_out"])
        return helper.make_graph([node], name, [], [_value(f"{name}_out", [4, 32])], [own])

    node = helper.make_node("If", ["p"], ["y"], then_branch=branch("yes"), else_branch=branch("no"))
    inputs = [_value("p", [], TensorProto.BOOL), _value("x", [4, 32])]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, [_value("y", [4, 32])]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    before = model.ByteSize()
    model = canonical(model)
    onnx.checker.check_model(model)
    assert [tensor.name for tensor in model.graph.initializer] in (["yes_w"], ["no_w"])
    assert model.ByteSize() < 0.6 * before
    x = RNG.standard_normal((4, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for chosen in (True, False):
        (y,) = session.run(None, {"p": np.array(chosen), "x": x})
        np.testing.assert_allclose(y, x @ numpy_helper.to_array(shared), rtol=1e-5, atol=1e-5)


@given(st.dictionaries(st.sampled_from(["p", "q", "a", "b", "own", "a_sum", "out", "unread"]), st.just("renamed")))
def test_renaming_reaches_every_body_and_no_name_of_its_own(names: dict[str, str]) -> None:
    node = _graph().node[0]
    rename_reads(node, names)
    assert set(node.input) | captured(node) == {names.get(name, name) for name in ("p", "q", "a", "b")}
