"""quantize.static on a small real classifier."""

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.digit_network import (
    SIGNATURE,
    Digits,
    Samples,
    accuracy,
    as_model,
    context,
    digits,
    fitted_network,
    open_model,
)
from support.gates import drop_at_most

from compressctl.backends.dialects.cpu import emit
from compressctl.core.errors import NothingToCompressError, StageError, UsageError
from compressctl.core.events import Events
from compressctl.core.model import Model, OnnxModel
from compressctl.core.quant import QuantPlan
from compressctl.core.target import Target
from compressctl.core.technique import Acceptance
from compressctl.graph.codes import weight_codes
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.sites import Site, find_sites
from compressctl.layers.onnx_network import outline_of
from compressctl.numerics.int8_weights import channel_rows
from compressctl.techniques.quantize._bias import corrected_biases, with_biases
from compressctl.techniques.quantize._calibrate import calibrate
from compressctl.techniques.quantize.params import StaticOverride, StaticParams
from compressctl.techniques.quantize.static import apply


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def model(data: Digits) -> Model:
    return fitted_network(data)


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy", "mse"])
def test_the_exported_file_keeps_its_accuracy(data: Digits, model: Model, ranges: str) -> None:
    result = apply(model, StaticParams(ranges=ranges), context(data, model))  # type: ignore[arg-type]
    assert accuracy(model, data.split("test")) > 93
    assert accuracy(result.model, data.split("test")) > accuracy(model, data.split("test")) - 1.5


def test_every_layer_is_quantized_and_the_facts_say_so(data: Digits, model: Model) -> None:
    result = apply(model, StaticParams(), context(data, model))
    assert result.facts["quantized_nodes"] == 6
    assert result.facts["calibration_samples"] == 200
    assert result.facts["left_in_float"] == {}


def test_the_models_own_graph_is_not_changed(data: Digits, model: Model) -> None:
    before = model.body.SerializeToString()
    apply(model, StaticParams(), context(data, model))
    assert model.body.SerializeToString() == before


def test_correcting_biases_brings_the_channel_means_back(data: Digits, model: Model) -> None:
    """Weights rounded twelve times more coarsely than int8 shift the means by enough to see."""
    split = data.split("calibration")
    sites = [site for site in find_sites(model.body.graph) if site.weight]
    result = apply(model, StaticParams(per_channel=False, bias_correction=False), context(data, model))
    assert result.model.quant is not None
    head = result.model.quant.weights["head.weight"]
    coarse = replace(head, scale=np.asarray(head.scale * np.float32(12)))
    plan = replace(result.model.quant, weights={**result.model.quant.weights, "head.weight": coarse})
    means = calibrate(model.body, SIGNATURE, split, [], [], [site.inputs[0] for site in sites], Events()).means
    corrected = with_biases(model.body, corrected_biases(model.body, sites, plan, means))

    def head_means(body: onnx.ModelProto) -> np.ndarray:
        logits = open_model(replace(model, body=body, quant=plan)).run({"image": split.images})["logits"]
        return np.asarray(logits.mean(axis=0))

    wanted = ActivationRecorder(model.body, ["logits"]).run({"image": split.images})["logits"].mean(axis=0)
    assert np.abs(head_means(corrected) - wanted).mean() < 0.5 * np.abs(head_means(model.body) - wanted).mean()


def test_a_convolutions_mean_shift_is_exact_with_padding(data: Digits, model: Model) -> None:
    split = data.split("calibration")
    (site,) = [site for site in find_sites(model.body.graph) if site.node == "stem"]
    result = apply(model, StaticParams(bias_correction=False), context(data, model))
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
    before = ActivationRecorder(model.body, ["s"]).run({"image": split.images})["s"].mean(axis=(0, 2, 3))
    after = ActivationRecorder(rounded, ["s"]).run({"image": split.images})["s"].mean(axis=(0, 2, 3))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_an_override_keeps_a_layer_in_float(data: Digits, model: Model) -> None:
    params = StaticParams(overrides=(StaticOverride(match="head.*", weights="float"),))
    result = apply(model, params, context(data, model))
    assert result.facts["left_in_float"] == {"head": "override 'head.*'"}
    stored = {tensor.name for tensor in emit(result.model, Target("onnxruntime")).graph.initializer}
    assert "head.weight" in stored
    assert "stem.weight" not in stored


def test_an_override_that_matches_nothing_is_an_error_that_names_what_there_is(data: Digits, model: Model) -> None:
    with pytest.raises(UsageError, match=r"'tail\.\*' matches no node") as caught:
        apply(model, StaticParams(overrides=(StaticOverride(match="tail.*", weights="float"),)), context(data, model))
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
    spoiled = as_model(body)
    before = accuracy(spoiled, data.split("validation"))
    plain = apply(spoiled, StaticParams(per_channel=False), context(data, spoiled))
    assert before - accuracy(plain.model, data.split("validation")) > 3

    by_hand = StaticParams(per_channel=False, overrides=(StaticOverride(match="body", weights="float"),))
    best = accuracy(apply(spoiled, by_hand, context(data, spoiled)).model, data.split("validation"))
    accept = _held(data, spoiled, before - best)

    held = apply(spoiled, StaticParams(per_channel=False), context(data, spoiled, accept=accept))
    assert set(held.facts["left_in_float"]) == {"body"}
    assert accuracy(held.model, data.split("validation")) == best
    assert held.facts["validation_drop"] <= before - best < held.facts["validation_drop_all_int8"]


def _held(data: Digits, original: Model, limit: float) -> Callable[[Model], Acceptance]:
    return drop_at_most(limit, lambda model: accuracy(model, data.split("validation")), original)


def test_a_gate_that_holds_costs_nothing(data: Digits, model: Model) -> None:
    held = apply(model, StaticParams(), context(data, model, accept=_held(data, model, 5.0)))
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
        apply(model, StaticParams(), context(broken, model))


def test_an_empty_calibration_split_says_what_to_do(data: Digits, model: Model) -> None:
    empty = Digits({**data.splits, "calibration": Samples(np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64))})
    with pytest.raises(UsageError, match=r"data\.calibration"):
        apply(model, StaticParams(), context(empty, model))


def test_a_graph_without_weights_says_that_there_is_nothing_to_do(data: Digits) -> None:
    node = helper.make_node("Relu", ["image"], ["logits"], "relu")
    graph = helper.make_graph(
        [node],
        "bare",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])],
    )
    bare = as_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    with pytest.raises(NothingToCompressError, match="nothing to quantize"):
        apply(bare, StaticParams(), context(data, bare))


def test_a_processor_that_adds_pairs_is_guarded_as_far_as_calibration_needs(data: Digits, model: Model) -> None:
    """Never coarser than for any inputs, finer where inputs are quiet, and no pair of the calibration samples overflows."""
    assert isinstance(model, OnnxModel)
    run = context(data, model, target=Target("onnxruntime", profile="x86-avx2"))
    assert run.target.saturates
    plans = {}
    for guard in ("auto", "pairs", "off"):
        result = apply(model, StaticParams(saturation_guard=guard, keep_float="overrides"), run)  # type: ignore[arg-type]
        plans[guard] = result.model.quant
        assert result.facts["saturation_guard"] == {"auto": "calibrated"}.get(guard, guard)
    finer = 0
    for weight, quant in plans["auto"].weights.items():
        scales = {guard: np.asarray(plan.weights[weight].scale) for guard, plan in plans.items()}
        assert np.all(scales["off"] <= quant.scale * (1 + 1e-6))
        assert np.all(quant.scale <= scales["pairs"] * (1 + 1e-6))
        finer += int(np.sum(quant.scale < 0.99 * scales["pairs"]))
    assert finer > 0
    for site in (site for site in find_sites(model.body.graph) if site.weight):
        _no_pair_overflows(model, site, plans["auto"], data.split("calibration").images)


def _no_pair_overflows(model: OnnxModel, site: Site, plan: QuantPlan, images: np.ndarray) -> None:
    """Of a layer's inputs on samples, in the order of its kernel."""
    assert site.weight is not None
    node = next(node for node in model.body.graph.node if node.name == site.node)
    weight = numpy_helper.to_array(next(one for one in model.body.graph.initializer if one.name == site.weight))
    values = ActivationRecorder(model.body, [site.inputs[0]]).run({"image": images})[site.inputs[0]]
    activation = plan.activations[site.inputs[0]]
    codes = np.clip(np.rint(values / activation.scale) + int(activation.zero_point), 0, 255).astype(np.int64)
    outline = outline_of(node, weight.shape if node.op_type == "Conv" else (len(weight), weight.shape[1]))
    rows = outline.rows(codes, lambda count: np.arange(0, count, 7)).reshape(
        -1, math.prod(weight.shape[2:]) * codes.shape[1]
    )
    weights = weight_codes(weight, plan.weights[site.weight])
    kernels = (
        channel_rows(weights, site.weight_axis) if node.op_type == "Conv" else np.moveaxis(weights, site.weight_axis, 0)
    )
    for kernel in kernels.astype(np.int64):
        products = rows * kernel
        assert np.abs(products[:, :-1] + products[:, 1:]).max() < 2**15
