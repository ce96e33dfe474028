"""Convolutions with few outputs that compute several positions at once: the same numbers, less idle arithmetic."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.events import Events
from compressctl.core.model import Form, OnnxModel
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.core.technique import ModelFacts, RunContext
from compressctl.graph.canonical import canonical
from compressctl.graph.float16 import store_half
from compressctl.graph.shapes import shapes
from compressctl.graph.unroll import convolutions, unrolled
from compressctl.sources.onnx_file import signature_of
from compressctl.techniques.unroll.params import UNROLL, UnrollParams
from compressctl.techniques.unroll.unroll import apply


def network(
    out: int = 1, kernel: tuple[int, int] = (3, 5), follower: str | None = None, **attributes: Any
) -> onnx.ModelProto:
    """A convolution of (n, 3, 11, 13) with a bias, perhaps an activation."""
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(out, 3, *kernel)), random.normal(size=out)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y" if follower is None else "c"], "conv", **attributes)]
    if follower:
        nodes.append(helper.make_node(follower, ["c"], ["y"], "act"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 11, 13])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a.astype(np.float32), name) for a, name in ((weight, "w"), (bias, "b"))],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return canonical(onnx.shape_inference.infer_shapes(made))


def computed(model: onnx.ModelProto, samples: int = 2) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(samples, 3, 11, 13)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def with_positions(model: onnx.ModelProto, rows: int, columns: int) -> onnx.ModelProto:
    found = convolutions(model.graph, shapes(model))
    return unrolled(model, {"conv": (rows, columns)}, found)


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (3, 1), (2, 3), (4, 16)])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"pads": [1, 2, 1, 2]}, {"strides": [2, 3], "pads": [0, 1, 2, 0]}],
    ids=["plain", "padded", "strided"],
)
def test_the_same_is_computed(rows: int, columns: int, attributes: dict[str, Any]) -> None:
    model = network(**attributes)
    made = with_positions(model, rows, columns)
    assert np.allclose(computed(made), computed(model), atol=1e-5)
    assert [node.op_type for node in made.graph.node].count("Conv") == 1


def test_an_activation_stays_right_behind_its_convolution() -> None:
    model = network(out=2, follower="Relu")
    made = with_positions(model, 2, 2)
    operators = [node.op_type for node in made.graph.node]
    assert operators[operators.index("Conv") + 1] == "Relu"
    assert operators.count("Relu") == 1
    assert np.allclose(computed(made), computed(model), atol=1e-5)


def test_wide_kernels_are_made_at_loading_also_of_weights_in_16_bits() -> None:
    model, _ = store_half(network())
    made = with_positions(model, 4, 4)
    stored = {
        tensor.name: list(tensor.dims) for tensor in made.graph.initializer if tensor.data_type != TensorProto.INT64
    }
    assert sorted(stored.values()) == [[1, 3, 3, 5], [16]]
    assert np.allclose(computed(made), computed(model), atol=1e-5)


def test_convolutions_that_share_weight_and_bias_are_unrolled_each_in_its_way() -> None:
    model = network(pads=[1, 2, 1, 2])
    second = helper.make_node("Conv", ["x", "w", "b"], ["z"], "second", strides=[2, 2])
    total = helper.make_node("ReduceSum", ["z"], ["sum"], "sum", keepdims=1)
    both = helper.make_node("Add", ["c", "sum"], ["y"], "both")
    model.graph.node[0].output[0] = "c"
    model.graph.node.extend([second, total, both])
    model = onnx.shape_inference.infer_shapes(model)
    found = convolutions(model.graph, shapes(model))
    made = unrolled(model, {"conv": (2, 2), "second": (1, 3)}, found)
    assert np.allclose(computed(made, 1), computed(model, 1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("attributes", [{"auto_pad": "SAME_UPPER"}, {"dilations": [2, 2]}])
def test_other_convolutions_are_left_alone(attributes: dict[str, Any]) -> None:
    model = network(**attributes)
    assert convolutions(model.graph, shapes(model)) == {}


def model_of(body: onnx.ModelProto) -> OnnxModel:
    return OnnxModel(body=body, signature=signature_of(body.graph, Path()))


def context(folder: Path, **given: Any) -> RunContext:
    return RunContext(seed=0, events=Events(), folder=folder, target=Target(backend="onnxruntime"), **given)


def test_what_is_measured_as_faster_stays(tmp_path: Path) -> None:
    """The clock of this test: time is how many convolutions make a single output."""

    def clock(models: Any) -> tuple[float, ...]:
        return tuple(
            1.0 if next(t for t in m.body.graph.node if t.op_type == "Conv").input[1] == "w" else 0.5 for m in models
        )

    found = apply(model_of(network()), UnrollParams(lanes=8), context(tmp_path, latency_ms=clock))
    assert isinstance(found.model, OnnxModel)
    rows, columns = found.facts["positions_at_once"]["conv"]
    assert 4 <= rows * columns <= 8
    assert found.pinned == {"use": "unroll", "positions": {"conv": [rows, columns]}}
    assert np.allclose(computed(found.model.body), computed(network()), atol=1e-5)


def test_what_is_no_faster_is_left_as_it_was(tmp_path: Path) -> None:
    slow = context(tmp_path, latency_ms=lambda models: tuple(1.0 for _ in models))
    with pytest.raises(NothingToCompressError, match="nothing to unroll"):
        apply(model_of(network()), UnrollParams(lanes=8), slow)


def test_positions_of_a_recipe_are_taken_without_a_clock(tmp_path: Path) -> None:
    found = apply(model_of(network()), UnrollParams(positions={"conv": (2, 2)}), context(tmp_path))
    assert found.facts["positions_at_once"] == {"conv": [2, 2]}
    with pytest.raises(UsageError, match="matches no plain float convolution"):
        apply(model_of(network()), UnrollParams(positions={"other": (2, 2)}), context(tmp_path))


def test_quantized_convolutions_are_no_candidates(tmp_path: Path) -> None:
    quant = TensorQuant("int8", np.ones(1, np.float32), np.zeros(1, np.int8))
    model = replace(model_of(network()), quant=QuantPlan({}, {"w": quant}, {}))
    with pytest.raises(NothingToCompressError):
        apply(model, UnrollParams(lanes=8), context(tmp_path, latency_ms=lambda models: tuple(1.0 for _ in models)))


def test_a_gpu_has_no_use_for_it() -> None:
    facts = ModelFacts(form=Form.ONNX, target=Target(backend="onnxruntime", device="cuda"))
    assert any("GPU" in problem.message for problem in UnrollParams().problems(facts))
    assert UNROLL.promises_speed
