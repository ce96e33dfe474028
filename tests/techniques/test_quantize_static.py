"""quantize.static on a small real classifier: fixed convolution features of digits under a fitted linear head."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits

from compressctl.backends.dialects.cpu import emit
from compressctl.core.data import Batch
from compressctl.core.errors import StageError, UsageError
from compressctl.core.events import Events
from compressctl.core.model import Form, Model, Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.core.technique import Gate, RunContext
from compressctl.graph.execute import TappedGraph
from compressctl.graph.sites import find_sites
from compressctl.measure.specs import ACCURACY
from compressctl.techniques.quantize.bias import corrected_biases, with_biases
from compressctl.techniques.quantize.calibrate import calibrate
from compressctl.techniques.quantize.params import Override, StaticParams
from compressctl.techniques.quantize.static import apply

SIGNATURE = Signature(
    (TensorSpec("image", "float32", ("batch", 1, 8, 8)),), (TensorSpec("logits", "float32", ("batch", 10)),)
)


@dataclass(frozen=True)
class Samples:
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Batch({"image": self.images[part]}, self.labels[part], np.arange(start, min(start + size, len(self))))


@dataclass(frozen=True)
class Digits:
    splits: dict[str, Samples]
    classes: tuple[str, ...] = tuple("0123456789")
    fingerprint: str = "digits"

    def split(self, name: str) -> Samples:
        return self.splits[name]


@pytest.fixture(scope="module")
def data() -> Digits:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    labels = labels[order]
    bounds = {"train": (0, 900), "calibration": (900, 1100), "validation": (1100, 1400), "test": (1400, 1797)}
    return Digits({name: Samples(images[a:b], labels[a:b]) for name, (a, b) in bounds.items()})


@pytest.fixture(scope="module")
def model(data: Digits) -> Model:
    """Two convolutions with random filters, a residual addition, and a head that least squares fits to the train split."""
    rng = np.random.default_rng(1)
    weights = {
        "stem.weight": rng.normal(size=(16, 1, 3, 3), scale=0.5),
        "stem.bias": rng.normal(size=16, scale=0.1),
        "body.weight": rng.normal(size=(16, 16, 3, 3), scale=0.1),
        "body.bias": rng.normal(size=16, scale=0.1),
        "head.weight": np.zeros((10, 256)),
        "head.bias": np.zeros(10),
    }
    float_model = _network({name: value.astype(np.float32) for name, value in weights.items()})
    train = data.split("train")
    features = TappedGraph(float_model, ["features"]).run({"image": train.images})["features"].astype(np.float64)
    targets = np.eye(10)[train.labels] - 0.1
    fitted = np.linalg.solve(features.T @ features + 1e-1 * np.eye(256), features.T @ targets)
    weights["head.weight"] = fitted.T
    return _as_model(_network({name: value.astype(np.float32) for name, value in weights.items()}))


def _network(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "stem.weight", "stem.bias"], ["s"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["s"], ["sr"], "stem_relu"),
        helper.make_node("Conv", ["sr", "body.weight", "body.bias"], ["b"], "body", pads=[1] * 4),
        helper.make_node("Add", ["b", "sr"], ["a"], "residual"),
        helper.make_node("Relu", ["a"], ["ar"], "residual_relu"),
        helper.make_node("MaxPool", ["ar"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["features"], "flatten"),
        helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _as_model(body: onnx.ModelProto) -> Model:
    return Model(Form.ONNX, body, SIGNATURE)


@dataclass(frozen=True)
class Opened:
    session: onnxruntime.InferenceSession

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": self.session.run(["logits"], dict(inputs))[0]}


def _open(model: Model) -> Opened:
    exported = emit(model, Target("onnxruntime")).SerializeToString()
    return Opened(onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"]))


def _accuracy(model: Model, samples: Samples) -> float:
    logits = _open(model).run({"image": samples.images})["logits"]
    return float((logits.argmax(axis=1) == samples.labels).mean() * 100)


def _context(data: Digits, original: Model, **changes: object) -> RunContext:
    def score(model: Model, split: str) -> float:
        return _accuracy(model, data.split(split))

    context = RunContext(
        seed=0,
        events=Events(),
        folder=Path(),
        target=Target("onnxruntime"),
        data=data,
        score=score,
        baseline_score=lambda: score(original, "validation"),
        open=_open,
        metric=ACCURACY,
    )
    return replace(context, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy", "mse"])
def test_the_exported_file_keeps_its_accuracy(data: Digits, model: Model, ranges: str) -> None:
    result = apply(model, StaticParams(ranges=ranges), _context(data, model))  # type: ignore[arg-type]
    assert _accuracy(model, data.split("test")) > 93
    assert _accuracy(result.model, data.split("test")) > _accuracy(model, data.split("test")) - 1.5


def test_every_layer_is_quantized_and_the_facts_say_so(data: Digits, model: Model) -> None:
    result = apply(model, StaticParams(), _context(data, model))
    assert result.facts["quantized_nodes"] == 6
    assert result.facts["calibration_samples"] == 200
    assert result.facts["left_in_float"] == {}


def test_the_models_own_graph_is_not_changed(data: Digits, model: Model) -> None:
    before = model.body.SerializeToString()
    apply(model, StaticParams(), _context(data, model))
    assert model.body.SerializeToString() == before


def test_correcting_biases_brings_the_channel_means_back(data: Digits, model: Model) -> None:
    """Weights rounded twelve times more coarsely than int8 shift the means by enough to see."""
    split = data.split("calibration")
    sites = [site for site in find_sites(model.body.graph) if site.weight]
    result = apply(model, StaticParams(per_channel=False, bias_correction=False), _context(data, model))
    assert result.model.quant is not None
    head = result.model.quant.weights["head.weight"]
    coarse = replace(head, scale=np.asarray(head.scale * np.float32(12)))
    plan = replace(result.model.quant, weights={**result.model.quant.weights, "head.weight": coarse})
    means = calibrate(model.body, SIGNATURE, split, [], [], [site.inputs[0] for site in sites], Events()).means
    corrected = with_biases(model.body, corrected_biases(model.body, sites, plan, means))

    def head_means(body: onnx.ModelProto) -> np.ndarray:
        logits = _open(replace(model, body=body, quant=plan)).run({"image": split.images})["logits"]
        return np.asarray(logits.mean(axis=0))

    wanted = TappedGraph(model.body, ["logits"]).run({"image": split.images})["logits"].mean(axis=0)
    assert np.abs(head_means(corrected) - wanted).mean() < 0.5 * np.abs(head_means(model.body) - wanted).mean()


def test_a_convolutions_mean_shift_is_exact_with_padding(data: Digits, model: Model) -> None:
    split = data.split("calibration")
    (site,) = [site for site in find_sites(model.body.graph) if site.node == "stem"]
    result = apply(model, StaticParams(bias_correction=False), _context(data, model))
    assert result.model.quant is not None
    weights = dict(result.model.quant.weights)
    weights["stem.weight"] = replace(weights["stem.weight"], scale=weights["stem.weight"].scale * np.float32(30))
    plan = replace(result.model.quant, weights=weights)
    means = calibrate(model.body, SIGNATURE, split, [], [], ["image"], Events()).means
    corrected = with_biases(model.body, corrected_biases(model.body, [site], plan, means))

    rounded = onnx.ModelProto()
    rounded.CopyFrom(corrected)
    scale = np.asarray(weights["stem.weight"].scale).reshape(-1, 1, 1, 1)
    for tensor in rounded.graph.initializer:
        if tensor.name == "stem.weight":
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((np.rint(values / scale) * scale).astype(np.float32), tensor.name))
    before = TappedGraph(model.body, ["s"]).run({"image": split.images})["s"].mean(axis=(0, 2, 3))
    after = TappedGraph(rounded, ["s"]).run({"image": split.images})["s"].mean(axis=(0, 2, 3))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_an_override_keeps_a_layer_in_float(data: Digits, model: Model) -> None:
    params = StaticParams(overrides=(Override(match="head.*", weights="float"),))
    result = apply(model, params, _context(data, model))
    assert result.facts["left_in_float"] == {"head": "override 'head.*'"}
    stored = {tensor.name for tensor in emit(result.model, Target("onnxruntime")).graph.initializer}
    assert "head.weight" in stored
    assert "stem.weight" not in stored


def test_an_override_that_matches_nothing_is_an_error_that_names_what_there_is(data: Digits, model: Model) -> None:
    with pytest.raises(UsageError, match=r"'tail\.\*' matches no node") as caught:
        apply(model, StaticParams(overrides=(Override(match="tail.*", weights="float"),)), _context(data, model))
    assert "head.weight" in str(caught.value)


def test_a_gate_gives_back_no_more_layers_than_it_needs(data: Digits, model: Model) -> None:
    """Huge weights behind a channel that is always zero change nothing in float and ruin the body's per-tensor scale."""
    body = onnx.ModelProto()
    body.CopyFrom(model.body)
    for tensor in body.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name.startswith("stem."):
            values[0] = 0.0
        if tensor.name == "body.weight":
            values[:, 0] = 50.0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    spoiled = _as_model(body)
    before = _accuracy(spoiled, data.split("validation"))
    plain = apply(spoiled, StaticParams(per_channel=False), _context(data, spoiled))
    assert before - _accuracy(plain.model, data.split("validation")) > 3

    by_hand = StaticParams(per_channel=False, overrides=(Override(match="body", weights="float"),))
    best = _accuracy(apply(spoiled, by_hand, _context(data, spoiled)).model, data.split("validation"))
    gate = Gate(accuracy_drop=before - best)

    held = apply(spoiled, StaticParams(per_channel=False), _context(data, spoiled, gate=gate))
    assert set(held.facts["left_in_float"]) == {"body"}
    assert _accuracy(held.model, data.split("validation")) == best
    assert held.facts["validation_drop"] <= gate.accuracy_drop < held.facts["validation_drop_all_int8"]


def test_a_gate_that_holds_costs_nothing(data: Digits, model: Model) -> None:
    held = apply(model, StaticParams(), _context(data, model, gate=Gate(accuracy_drop=5.0)))
    assert held.facts["left_in_float"] == {}


def test_calibration_memory_does_not_grow_with_the_samples(data: Digits, model: Model) -> None:
    def peak(copies: int) -> int:
        images = np.tile(data.split("calibration").images, (copies, 1, 1, 1))
        split = Samples(images, np.zeros(len(images), dtype=np.int64))
        tensors = ["image", "sr", "ar", "features"]
        tracemalloc.start()
        calibrate(model.body, SIGNATURE, split, tensors, tensors, tensors, Events())
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken

    peak(1)
    # Ten times the samples: what grew with them would show tenfold. On a busy machine the arrays of two threads overlap.
    assert peak(20) < 3 * peak(2)


def test_not_a_number_in_calibration_names_the_tensor(data: Digits, model: Model) -> None:
    images = data.split("calibration").images.copy()
    images[3, 0, 0, 0] = np.nan
    broken = Digits({**data.splits, "calibration": Samples(images, data.split("calibration").labels)})
    with pytest.raises(StageError, match="image: the values hold NaN"):
        apply(model, StaticParams(), _context(broken, model))


def test_an_empty_calibration_split_says_what_to_do(data: Digits, model: Model) -> None:
    empty = Digits({**data.splits, "calibration": Samples(np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64))})
    with pytest.raises(UsageError, match=r"data\.calibration"):
        apply(model, StaticParams(), _context(empty, model))


def test_a_graph_without_weights_says_that_there_is_nothing_to_do(data: Digits) -> None:
    node = helper.make_node("Relu", ["image"], ["logits"], "relu")
    graph = helper.make_graph(
        [node],
        "bare",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
    )
    bare = _as_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    with pytest.raises(StageError, match="nothing to quantize"):
        apply(bare, StaticParams(), _context(data, bare))
