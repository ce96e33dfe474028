"""What quantize.static leaves in float by itself: what decodes outputs, and few layers that rounding hurts most."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.digit_network import Digits, Samples
from support.exact import exact_session

from compressctl.backends.dialects.cpu import emit
from compressctl.core.events import Events
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.graph.codes import range_of
from compressctl.techniques.quantize._noise import (
    Allowance,
    Measured,
    OutputNoise,
    _measured,
    _noisy,
    allowance,
    decibels,
)
from compressctl.techniques.quantize.params import StaticOverride, StaticParams
from compressctl.techniques.quantize.static import Seen, apply, make_plan, observe

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(48, 1, 12, 12)).astype(np.float32)
DATA = Digits({name: Samples(IMAGES[a:b], np.zeros(b - a, int)) for name, a, b in
               (("calibration", 0, 32), ("validation", 32, 40), ("test", 40, 48), ("train", 0, 0))})  # fmt: skip


class Builder:
    """A chain of convolutions and what follows them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def conv(self, source: str, output: str, weight: np.ndarray, bias: float = 0.0) -> str:
        self.constants += [
            numpy_helper.from_array(weight.astype(np.float32), f"{output}.weight"),
            numpy_helper.from_array(np.full(len(weight), bias, np.float32), f"{output}.bias"),
        ]
        self.node("Conv", [source, f"{output}.weight", f"{output}.bias"], output, pads=[weight.shape[2] // 2] * 4)
        return output

    def node(self, op: str, sources: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, sources, [output], f"{output}_{op}", **attributes))
        return output

    def model(self, output: str, channels: int) -> OnnxModel:
        image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 12, 12])
        made = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["batch", channels, 12, 12])
        graph = helper.make_graph(self.nodes, "network", [image], [made], self.constants)
        body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        signature = Signature(
            (TensorSpec("image", "float32", ("batch", 1, 12, 12)),),
            (TensorSpec(output, "float32", ("batch", channels, 12, 12)),),
        )
        return OnnxModel(body, signature)


def _weight(outputs: int, inputs: int, size: int = 3) -> np.ndarray:
    return RNG.normal(size=(outputs, inputs, size, size)) / np.sqrt(inputs * size * size)


def _trunk(builder: Builder, outlier: float = 1.0) -> str:
    """Relu layers of 8, 32, 32, ... channels; one channel of the first has values so many times as large as the others'."""
    first, second = _weight(8, 1), _weight(32, 8)
    first[0] *= outlier
    second[:, 0] /= outlier
    tensor = builder.node("Relu", [builder.conv("image", "c0", first)], "r0")
    tensor = builder.node("Relu", [builder.conv(tensor, "c1", second)], "r1")
    for layer in range(2, 5):
        tensor = builder.node("Relu", [builder.conv(tensor, f"c{layer}", _weight(32, 32))], f"r{layer}")
    return tensor


def _context() -> RunContext:
    return RunContext(0, Events(), Path(), Target("onnxruntime", profile="x86-vnni"), DATA)  # type: ignore[arg-type]


def _sqnr_db(model: OnnxModel, quantized: OnnxModel, channels: slice = slice(None)) -> float:
    files = (emit(each, Target("onnxruntime", profile="x86-vnni")) for each in (model, quantized))
    was, now = (exact_session(file).run(None, {"image": IMAGES[32:]})[0][:, channels] for file in files)
    return float(10 * np.log10(np.sum(was**2) / np.sum((now - was) ** 2)))


@pytest.fixture(scope="module")
def detector() -> OnnxModel:
    """Boxes in pixels and scores below 1, joined in one tensor."""
    builder = Builder()
    trunk = _trunk(builder)
    boxes = builder.conv(trunk, "boxes", 100 * _weight(4, 32, 1), bias=150)
    scores = builder.node("Sigmoid", [builder.conv(trunk, "logits", 2 * _weight(3, 32, 1), bias=-5)], "scores")
    return builder.model(builder.node("Concat", [boxes, scores], "detections", axis=1), 7)


def test_what_joins_boxes_and_scores_stays_float_with_the_layers_that_it_reads(detector: OnnxModel) -> None:
    result = apply(detector, StaticParams(), _context())
    assert {"boxes_Conv", "logits_Conv"} <= set(result.facts["left_in_float"])
    assert all("decod" in reason for reason in result.facts["left_in_float"].values())
    assert {"c1_Conv", "c2_Conv"}.isdisjoint(result.facts["left_in_float"])


def test_scores_beside_boxes_keep_their_signal(detector: OnnxModel) -> None:
    by_default = apply(detector, StaticParams(), _context()).model
    rounded = apply(detector, StaticParams(keep_float="overrides"), _context()).model
    scores = slice(4, 7)
    assert _sqnr_db(detector, by_default, scores) > _sqnr_db(detector, rounded, scores) + 2


def test_a_shared_scale_that_would_lose_the_scores_is_avoided_in_what_reads_it_too() -> None:
    """A convolution behind the join needs integers, so that boxes in pixels and scores below 1 would have one scale."""
    builder = Builder()
    trunk = _trunk(builder)
    boxes = builder.conv(trunk, "boxes", 100 * _weight(4, 32, 1), bias=150)
    scores = builder.node("Sigmoid", [builder.conv(trunk, "logits", 2 * _weight(3, 32, 1), bias=-5)], "scores")
    joined = builder.node("Concat", [boxes, scores], "joined", axis=1)
    model = builder.model(builder.conv(joined, "detections", np.eye(7).reshape(7, 7, 1, 1)), 7)
    by_default = apply(model, StaticParams(), _context())
    planted = apply(model, StaticParams(keep_float="overrides"), _context())
    assert "shared scale: scores" in by_default.facts["left_in_float"]["joined_Concat"]
    assert "detections_Conv" in by_default.facts["left_in_float"]
    assert _sqnr_db(model, planted.model, slice(4, 7)) < 10 < 20 < _sqnr_db(model, by_default.model, slice(4, 7))


def test_an_override_wins_over_decoding(detector: OnnxModel) -> None:
    params = StaticParams(overrides=(StaticOverride(match="logits_Conv", weights="int8"),))
    assert "logits_Conv" not in apply(detector, params, _context()).facts["left_in_float"]


def test_a_single_last_layer_is_rounded() -> None:
    builder = Builder()
    scores = builder.node("Sigmoid", [builder.conv(_trunk(builder), "logits", _weight(3, 32, 1))], "scores")
    assert apply(builder.model(scores, 3), StaticParams(), _context()).facts["left_in_float"] == {}


def test_a_network_that_rounds_well_is_rounded_whole() -> None:
    builder = Builder()
    assert apply(builder.model(_trunk(builder), 32), StaticParams(), _context()).facts["left_in_float"] == {}


def test_layers_between_which_few_channels_take_all_codes_stay_float() -> None:
    builder = Builder()
    model = builder.model(_trunk(builder, outlier=300.0), 32)
    by_default = apply(model, StaticParams(), _context())
    rounded = apply(model, StaticParams(keep_float="overrides"), _context())
    assert set(by_default.facts["left_in_float"]) == {"c0_Conv", "c1_Conv"}
    assert _sqnr_db(model, rounded.model) < 20 < 25 < _sqnr_db(model, by_default.model)


def test_noise_is_measured_where_the_outputs_hold_something(detector: OnnxModel) -> None:
    """A detector finds nothing in most pictures."""
    empty = np.zeros((40, 1, 12, 12), np.float32)
    late = Digits({"calibration": Samples(np.concatenate([empty, IMAGES[:16]]), np.zeros(56, int))})
    seen = observe(detector, StaticParams(keep_float="overrides"), _context())
    plan = make_plan(seen.body, seen.treated, seen.calibration, StaticParams(), _context().target)
    noises = [
        OutputNoise(seen.body, detector.signature, data.split("calibration"), plan.weights).sqnr_db(plan)
        for data in (late, Digits({"calibration": Samples(IMAGES[:16], np.zeros(16, int))}))
    ]
    assert noises[0] == pytest.approx(noises[1], abs=1e-6)


def test_noise_holds_that_of_rounded_weights_of_layers_that_are_not_float(detector: OnnxModel) -> None:
    seen = observe(detector, StaticParams(keep_float="overrides"), _context())
    fine, coarse = (
        make_plan(seen.body, seen.treated, seen.calibration, params, _context().target)
        for params in (StaticParams(), StaticParams(per_channel=False))
    )
    split = DATA.split("calibration")
    noise = OutputNoise(seen.body, detector.signature, split, coarse.weights)
    assert noise.sqnr_db(fine) < OutputNoise(seen.body, detector.signature, split, fine.weights).sqnr_db(fine)
    floats = dict.fromkeys((site.node for site in seen.treated.sites), "float")
    assert noise.sqnr_db(replace(coarse, float_nodes=floats)) == pytest.approx(60)


@pytest.mark.parametrize("is_read_elsewhere", [False, True])
def test_no_codes_are_spent_where_a_swish_gives_nothing(is_read_elsewhere: bool) -> None:
    builder = Builder()
    steep = builder.conv("image", "steep", 20 * _weight(8, 1))
    swish = builder.node("Mul", [steep, builder.node("Sigmoid", [steep], "gate")], "swish")
    both = builder.node("Add", [swish, steep if is_read_elsewhere else swish], "both")
    model = builder.model(builder.conv(both, "y", _weight(4, 8)), 4)

    result = apply(model, StaticParams(), _context())

    low, high = range_of(result.model.quant.activations["steep"])
    assert high > 20
    assert (low < -20) if is_read_elsewhere else (-10 < low < -2)


def _noisy_plan(model: OnnxModel) -> tuple[Seen, QuantPlan, OutputNoise]:
    seen = observe(model, StaticParams(keep_float="overrides"), _context())
    plan = make_plan(seen.body, seen.treated, seen.calibration, StaticParams(), _context().target)
    return seen, plan, OutputNoise(seen.body, model.signature, DATA.split("calibration"), plan.weights)


def test_noises_of_tensors_that_are_rounded_alone_add_up_to_that_of_all() -> None:
    """Where noise is small: tensors and weights are rounded independently of each other."""
    builder = Builder()
    _, plan, noise = _noisy_plan(builder.model(_trunk(builder), 32))
    alone = [noise.alone(plan, tensor)[0] for tensor in plan.activations]
    weights = noise.ratios(replace(plan, activations={}))[0]
    assert decibels((np.sum([*alone, weights], axis=0),)) == pytest.approx(noise.sqnr_db(plan), abs=1.0)


def test_what_is_predicted_of_layers_in_float_is_what_they_bring() -> None:
    builder = Builder()
    seen, plan, noise = _noisy_plan(builder.model(_trunk(builder, outlier=30.0), 32))
    floats = dict.fromkeys(("c0_Conv", "c1_Conv"), "float")
    measured = _measured(noise, plan, seen.treated.sites, 24, Events())
    assert measured.sqnr_db(()) == pytest.approx(noise.sqnr_db(plan), abs=1.5)
    found = noise.sqnr_db(replace(plan, float_nodes=floats))
    assert found > noise.sqnr_db(plan) + 5
    assert measured.sqnr_db(floats) == pytest.approx(found, abs=1.5)


def test_of_layers_that_bring_as_much_the_one_with_less_work_stays_float() -> None:
    builder = Builder()
    seen, plan, noise = _noisy_plan(builder.model(_trunk(builder), 32))
    silent = tuple(np.zeros_like(ratios) for ratios in noise.alone(plan, "r1"))
    loud = tuple(np.full_like(ratios, 0.01) for ratios in silent)
    measured = Measured(seen.body.graph, plan, {"r1": loud, "r3": loud}, silent)
    macs = {"c0_Conv": 1, "c1_Conv": 1, "c2_Conv": 2, "c3_Conv": 4, "c4_Conv": 4, "rest": 88}
    floats, share = _noisy(measured, seen.treated.sites, macs, Allowance())
    assert (set(floats), share) == ({"c1_Conv", "c2_Conv"}, 0.03)


@pytest.mark.parametrize(("asked", "floats"), [(None, set()), (0.1, set()), (0.2, {"c1_Conv", "c2_Conv"})])
def test_what_is_allowed_is_spent_and_no_more(asked: float | None, floats: set[str]) -> None:
    builder = Builder()
    seen, plan, noise = _noisy_plan(builder.model(_trunk(builder), 32))
    silent = tuple(np.zeros_like(ratios) for ratios in noise.alone(plan, "r1"))
    loud = tuple(np.full_like(ratios, 0.01) for ratios in silent)
    measured = Measured(seen.body.graph, plan, {"r1": loud}, silent)
    macs = {"c1_Conv": 6, "c2_Conv": 6, "rest": 88}
    found, share = _noisy(measured, seen.treated.sites, macs, allowance(asked))
    assert (set(found), share) == (floats, 0.12 if floats else 0.0)


def test_a_larger_share_in_float_has_less_noise() -> None:
    builder = Builder()
    model = builder.model(_trunk(builder, outlier=300.0), 32)
    small, large = (
        apply(model, StaticParams(float_macs=share, saturation_guard="off"), _context()) for share in (0.01, 0.9)
    )
    assert set(small.facts["left_in_float"]) < set(large.facts["left_in_float"])
    assert _sqnr_db(model, small.model) < _sqnr_db(model, large.model) - 5


def test_a_share_without_somebody_who_spends_it_is_refused() -> None:
    with pytest.raises(ValueError, match="say the layers themselves"):
        StaticParams(float_macs=0.2, keep_float="overrides")
