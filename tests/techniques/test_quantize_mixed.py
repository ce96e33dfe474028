"""quantize.mixed: what each layer gets under a budget, why, and the explicit recipe that says the same."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.digit_network import SIGNATURE, Digits, accuracy, context, digits, fitted_network, open_model
from support.recipes import recipe_of

from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import Form, Model, OnnxModel, StageRecord
from compressctl.core.target import Target
from compressctl.core.technique import ModelFacts, StageResult
from compressctl.graph.index import index
from compressctl.pipeline.serialization import read_model, write_model
from compressctl.techniques.quantize._sensitivity import Probe, hessian_trace, probe
from compressctl.techniques.quantize.mixed import apply
from compressctl.techniques.quantize.params import MixedParams, StaticOverride, StaticParams
from compressctl.techniques.quantize.static import apply as apply_static

SIZES = {"stem": (144, 16), "body": (2304, 16), "head": (2560, 10)}


def bytes_at(layer: str, width: str) -> int:
    weights, channels = SIZES[layer]
    return {"float": 4 * weights, "int8": weights + 4 * channels, "int4": weights // 2 + 4 * channels}[width]


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def model(data: Digits) -> Model:
    return fitted_network(data)


@pytest.fixture(scope="module")
def chosen(data: Digits, model: Model) -> StageResult:
    return apply(model, MixedParams(size=0.2), context(data, model))


def test_the_choice_is_the_best_of_all_that_fit(chosen: StageResult) -> None:
    """Every plan of three widths for three layers, with the costs that the report shows."""
    layers = chosen.facts["layers"]
    limit = 0.2 * 4 * sum(weights for weights, _ in SIZES.values())
    plans = [dict(zip(SIZES, widths, strict=True)) for widths in product(("int8", "int4", "float"), repeat=3)]
    fitting = [plan for plan in plans if sum(bytes_at(layer, width) for layer, width in plan.items()) <= limit]
    best = min(fitting, key=lambda plan: sum(layers[layer]["cost"][width] for layer, width in plan.items()))
    assert 0 < len(fitting) < len(plans)
    assert {layer: entry["width"] for layer, entry in layers.items()} == best
    assert {layer: entry["bytes"] for layer, entry in layers.items()} == {
        layer: bytes_at(layer, width) for layer, width in best.items()
    }
    assert len(set(best.values())) > 1


def test_fewer_bits_cost_more_and_float_costs_nothing(chosen: StageResult) -> None:
    for entry in chosen.facts["layers"].values():
        assert entry["cost"]["int4"] > entry["cost"]["int8"] > entry["cost"]["float"] == 0


def test_the_cost_is_the_divergence_of_the_file_in_which_one_layer_is_quantized(
    data: Digits, model: Model, chosen: StageResult
) -> None:
    """Done again by hand: everything else kept float by overrides, both files run, KL in float64."""
    others = tuple(
        StaticOverride(match=name, weights="float") for name in ("stem", "body", "residual", "pool", "flatten")
    )
    alone = apply_static(model, StaticParams(weights="int4", overrides=others), context(data, model)).model
    images = {"image": data.split("calibration").images}
    scores = [open_model(part).run(images)["logits"].astype(np.float64) for part in (model, alone)]
    shares = [np.exp(part) / np.exp(part).sum(axis=1, keepdims=True) for part in scores]
    divergence = np.mean(np.sum(shares[0] * np.log(shares[0] / shares[1]), axis=1))
    assert chosen.facts["layers"]["head"]["cost"]["int4"] == pytest.approx(divergence, rel=1e-2)


def test_the_file_keeps_its_accuracy(data: Digits, model: Model, chosen: StageResult) -> None:
    assert accuracy(chosen.model, data.split("test")) > accuracy(model, data.split("test")) - 2


def test_the_pinned_stage_gives_the_same_plan(data: Digits, model: Model, chosen: StageResult) -> None:
    assert chosen.pinned is not None
    pinned = dict(chosen.pinned)
    assert pinned.pop("use") == "quantize.static"
    again = apply_static(model, StaticParams.model_validate(pinned), context(data, model)).model
    assert again.body.SerializeToString() == chosen.model.body.SerializeToString()
    assert chosen.model.quant is not None
    assert again.quant is not None
    assert set(again.quant.weights) == set(chosen.model.quant.weights)
    for name, quant in chosen.model.quant.weights.items():
        assert np.array_equal(quant.scale, again.quant.weights[name].scale)
        assert quant.quantized_max == again.quant.weights[name].quantized_max


def test_a_stage_from_the_cache_still_says_what_it_chose(model: Model, chosen: StageResult, tmp_path: Path) -> None:
    record = StageRecord("few", "quantize.mixed", {}, 1.0, chosen.facts, pinned=chosen.pinned)
    write_model(replace(chosen.model, history=(record,)), tmp_path, None)
    assert read_model(tmp_path, lambda: model, recipe_of(tmp_path)).history[0].pinned == chosen.pinned


def test_what_an_override_decides_is_not_up_for_choice(data: Digits, model: Model) -> None:
    settings = StaticParams(
        overrides=(StaticOverride(match="stem", weights="float"), StaticOverride(match="head.*", weights="int8"))
    )
    found = apply(model, MixedParams(size=0.3, static=settings), context(data, model))
    layers = found.facts["layers"]
    assert layers["stem"]["width"] == "float"
    assert layers["head"]["width"] == "int8"
    assert "override" in layers["stem"]["why"]
    assert "stem" in found.facts["left_in_float"]


def clock(times: dict[str, float], integer: float, whole: float) -> Any:
    """A runtime on which each layer in float takes this much longer than in integers."""

    def latency_ms(models: Sequence[Model]) -> tuple[float, ...]:
        def one(model: Model) -> float:
            if model.quant is None:
                return whole
            return integer + sum(times[node] for node in model.quant.float_nodes if node in times)

        return tuple(one(part) for part in models)

    return latency_ms


def test_speed_decides_which_layers_may_be_float(data: Digits, model: Model) -> None:
    """2 ms in integers, 8 in float, 4 allowed: the head in float is too slow, whatever it would save in accuracy."""
    times = {"stem": 0.5, "body": 1.4, "head": 4.0}
    run = context(data, model, latency_ms=clock(times, 2.0, 8.0))
    found = apply(model, MixedParams(speedup=2.0), run)
    widths = {layer: entry["width"] for layer, entry in found.facts["layers"].items()}
    assert widths == {"stem": "float", "body": "float", "head": "int8"}
    assert found.facts["layers"]["body"]["float_adds_ms"] == pytest.approx(1.4)
    assert found.facts["speedup_when_chosen"] == pytest.approx(8 / 3.9, abs=1e-3)


def test_a_budget_that_nothing_meets_says_how_far_it_is(data: Digits, model: Model) -> None:
    run = context(data, model, latency_ms=clock({}, 2.0, 8.0))
    with pytest.raises(StageError, match=r"2,672 bytes of weights where 1,000 are allowed.*4\.00x where 5\.0x"):
        apply(model, MixedParams(size=1000, speedup=5), run)


def test_a_choice_without_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="give `size`, `speedup` or both"):
        MixedParams()


def test_the_trace_is_that_of_the_fisher_matrix(data: Digits) -> None:
    """One linear layer behind a softmax: F = sum over samples of (diag(p) - p p^T) x x^T, whose trace is known."""
    rng = np.random.default_rng(0)
    weight, inputs = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(64, 6)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    scores = inputs.astype(np.float64) @ weight
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    exact = np.mean((1 - (shares**2).sum(axis=1)) * (inputs.astype(np.float64) ** 2).sum(axis=1))
    distance = probe(data.split("calibration"), SIGNATURE, 8, "kl").distance
    seen = Probe(({"x": inputs},), (len(inputs),), distance)
    estimate = hessian_trace(body, "w", weight, seen, 400, np.random.default_rng(1))
    assert estimate == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("kind", ["mse", "hessian"])
def test_other_sensitivities_choose_within_the_same_budget(data: Digits, model: Model, kind: str) -> None:
    found = apply(model, MixedParams(size=0.2, sensitivity=kind, probes=2), context(data, model))  # type: ignore[arg-type]
    assert found.facts["weight_bytes"] <= found.facts["weight_bytes_allowed"]
    assert all(entry["cost"]["int4"] > entry["cost"]["int8"] for entry in found.facts["layers"].values())


def test_divergence_of_what_has_no_classes_is_refused(data: Digits, model: Model) -> None:
    with pytest.raises(UsageError, match="the task is regression"):
        apply(model, MixedParams(size=0.2, sensitivity="kl"), context(data, model, task="regression"))
    found = apply(model, MixedParams(size=0.2), context(data, model, task="regression"))
    assert found.facts["sensitivity"] == "mse"


def test_without_a_way_to_open_a_model_the_message_says_what_to_choose(data: Digits, model: Model) -> None:
    with pytest.raises(UsageError, match="sensitivity: hessian"):
        apply(model, MixedParams(size=0.2), context(data, model, open=None))


def test_the_width_of_every_layer_is_not_given_beside_the_choice() -> None:
    facts = ModelFacts(Form.ONNX, Target("onnxruntime"))
    (problem,) = MixedParams(size=0.2, static=StaticParams(weights="int4")).problems(facts)
    assert problem.path == "static.weights"
    assert not list(MixedParams(size=0.2).problems(facts))


def test_layers_that_share_a_weight_get_one_width(data: Digits, model: Model) -> None:
    body = onnx.ModelProto()
    body.CopyFrom(model.body)
    again = onnx.NodeProto()
    again.CopyFrom(next(node for node in body.graph.node if node.name == "body"))
    again.name, again.input[0], again.output[0] = "twice", "b", "b2"
    position = next(n for n, node in enumerate(body.graph.node) if node.name == "residual")
    body.graph.node.insert(position, again)
    body.graph.node[position + 1].input[0] = "b2"
    assert index(body.graph).array("body.weight") is not None
    shared = OnnxModel(body, model.signature)
    found = apply(shared, MixedParams(size=0.2), context(data, shared))
    assert "body, twice" in found.facts["layers"]
