"""What quantize.static and quantize.dynamic can do to a graph before they round it: the same function, easier to round."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.weights import context, language_model, sentences, text

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.data import Batch
from compressctl.core.errors import UsageError
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.graph.equalize import Pair, equalizable, equalized
from compressctl.techniques.quantize import dynamic, static
from compressctl.techniques.quantize._smooth import smoothed
from compressctl.techniques.quantize.params import DynamicParams, StaticParams

IDS = sentences(40, seed=9).ids
X = np.random.default_rng(5).normal(0, 1, (64, 4, 6, 6)).astype(np.float32)
ORT = Target("onnxruntime")


def _run(proto: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def _convolutions(between: str = "Relu") -> Model:
    """Conv -> between -> depthwise Conv -> Relu -> Conv, whose channels differ by a factor of a thousand."""
    rng = np.random.default_rng(0)
    spread = np.exp(rng.normal(0, 2, 8))[:, None, None, None]
    weights = {
        "w1": rng.normal(0, 0.3, (8, 4, 3, 3)) * spread,
        "b1": rng.normal(0, 0.3, 8) * spread.reshape(-1),
        "w2": rng.normal(0, 0.3, (8, 1, 3, 3)) / spread,
        "w3": rng.normal(0, 0.3, (5, 8, 1, 1)),
    }
    middle = {"Relu": ["c1"], "Clip": ["c1", "low", "high"]}[between]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1] * 4),
        helper.make_node(between, middle, ["r1"], "between"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depthwise", pads=[1] * 4, group=8),
        helper.make_node("Relu", ["c2"], ["r2"], "relu"),
        helper.make_node("Conv", ["r2", "w3"], ["y"], "last"),
    ]
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    bounds = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("low", 0), ("high", 6))]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, 6, 6])],
        [*constants, *(bounds if between == "Clip" else [])],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 4, 6, 6)),), (TensorSpec("y", "float32", ("batch", 5, 6, 6)),)
    )
    return OnnxModel(body, signature)


class _Images:
    classes = None

    def split(self, name: str) -> "_Images":
        return self

    def __len__(self) -> int:
        return len(X)

    def batches(self, size: int, *, shuffle_seed: int | None = None):  # type: ignore[no-untyped-def]
        for start in range(0, len(X), size):
            yield Batch({"x": X[start : start + size]}, None, np.arange(len(X))[start : start + size])


def test_equalizing_changes_no_output_and_evens_the_ranges() -> None:
    body = _convolutions().body
    assert equalizable(body.graph) == [Pair("first", "depthwise"), Pair("depthwise", "last")]
    changed, pairs = equalized(body)
    assert pairs == 2
    assert np.allclose(_run(changed, x=X), _run(body, x=X), rtol=1e-3, atol=1e-3)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    first, depthwise = np.abs(arrays["w1"]).max(axis=(1, 2, 3)), np.abs(arrays["w2"]).max(axis=(1, 2, 3))
    last = np.abs(arrays["w3"]).max(axis=(0, 2, 3))
    assert np.allclose(first, depthwise, rtol=0.01)
    assert np.allclose(depthwise, last, rtol=0.01)


def test_a_clip_whose_bound_would_differ_by_channel_forbids_it() -> None:
    assert equalizable(_convolutions("Clip").body.graph) == [Pair("depthwise", "last")]


def test_a_second_reader_forbids_it() -> None:
    body = _convolutions().body
    body.graph.output.append(helper.make_tensor_value_info("r1", TensorProto.FLOAT, None))
    assert equalizable(body.graph) == [Pair("depthwise", "last")]


def test_equalized_channels_round_better_under_one_scale(tmp_path: Path) -> None:
    model = _convolutions()
    wanted = _run(model.body, x=X)
    errors = {}
    for equalize in (False, True):
        params = StaticParams(per_channel=False, equalize=equalize)
        result = static.apply(model, params, context(_Images(), tmp_path))
        errors[equalize] = np.sqrt(np.mean((_run(to_onnx(result.model, ORT), x=X) - wanted) ** 2))
        assert result.facts.get("equalized_pairs") == (2 if equalize else None)
    assert errors[True] < 0.5 * errors[False]


def test_smoothing_changes_no_output_and_evens_activations(tmp_path: Path) -> None:
    model = language_model(tied="no")
    body, places = smoothed(model.body, model, 0.5, context(text(), tmp_path))
    assert places == {"normed": "norm", "r": "up", "pooled": "pooled_divided"}
    assert np.allclose(_run(body, ids=IDS), _run(model.body, ids=IDS), atol=1e-3)
    scale = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.graph.initializer}["norm_1_divided"]
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.body.graph.initializer}["norm.scale"]
    assert np.log(scale).std() < 0.7 * np.log(before).std()


@pytest.mark.parametrize("technique", ["static", "dynamic"])
def test_outlier_channels_cost_less_when_smoothed(tmp_path: Path, technique: str) -> None:
    """A few channels a hundred times larger than the rest, as transformers have, behind weights that are as much smaller."""
    model = language_model(tied="no")
    body = onnx.ModelProto()
    body.CopyFrom(model.body)
    factor = np.where(np.arange(64) % 16 == 0, 100.0, 1.0).astype(np.float32)
    for tensor in body.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.startswith("norm."):
            tensor.CopyFrom(numpy_helper.from_array(values * factor, tensor.name))
        elif tensor.name == "up.weight":
            tensor.CopyFrom(numpy_helper.from_array(values / factor[:, None], tensor.name))
    spoiled = replace(model, body=body)
    wanted = _run(body, ids=IDS)
    errors = {}
    for smooth in (None, 0.5):
        run = context(text(), tmp_path)
        if technique == "static":
            result = static.apply(spoiled, StaticParams(smoothquant_alpha=smooth, bias_correction=False), run)
        else:
            result = dynamic.apply(spoiled, DynamicParams(smoothquant_alpha=smooth, embeddings="float"), run)
        errors[smooth] = np.sqrt(np.mean((_run(to_onnx(result.model, ORT), ids=IDS) - wanted) ** 2))
    assert errors[0.5] < 0.5 * errors[None]


def test_smoothing_without_data_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the recipe has no data"):
        dynamic.apply(language_model(), DynamicParams(smoothquant_alpha=0.5), context(None, tmp_path))
