"""quantize.mixed for weights alone: what each layer gets under a budget, what that takes, and the recipe that says the same."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.digit_network import Digits, context, digits, fitted_network, open_model
from support.weights import WIDTH, WORDS, language_model, text
from support.weights import context as plain_context

from compressctl.backends.dialects.weight_only import Form
from compressctl.backends.onnx_file import to_onnx
from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import Form as ModelForm
from compressctl.core.model import Model, OnnxModel
from compressctl.core.target import Target
from compressctl.core.technique import ModelFacts, StageResult
from compressctl.techniques.quantize.mixed import apply
from compressctl.techniques.quantize.params import MixedParams, WeightOverride, WeightsParams
from compressctl.techniques.quantize.weights import apply as apply_weights

SYMMETRIC = {"symmetric": True}
SIZES = {"stem": (16, 9), "body": (16, 144), "head": (10, 256)}
"""Rows and columns. Convolutions have a scale for each row, products one for each 32 columns of it."""


def bits_at(layer: str, width: str) -> int:
    rows, columns = SIZES[layer]
    scales = rows * columns // 32 if layer == "head" else rows
    return 32 * rows * columns if width == "float" else int(width) * rows * columns + 32 * scales


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def model(data: Digits) -> Model:
    return fitted_network(data)


@pytest.fixture(scope="module")
def chosen(data: Digits, model: Model) -> StageResult:
    return apply(model, MixedParams(bits_per_weight=7, weights_only=SYMMETRIC), context(data, model))


def test_the_choice_is_the_best_of_all_that_fit(chosen: StageResult) -> None:
    layers = chosen.facts["layers"]
    limit = 7 * sum(rows * columns for rows, columns in SIZES.values())
    plans = [dict(zip(SIZES, widths, strict=True)) for widths in product(("8", "4", "float"), repeat=3)]
    fitting = [plan for plan in plans if sum(bits_at(layer, width) for layer, width in plan.items()) <= limit]
    best = min(fitting, key=lambda plan: sum(layers[layer]["cost"][width] for layer, width in plan.items()))
    assert 0 < len(fitting) < len(plans)
    assert {layer: entry["width"] for layer, entry in layers.items()} == best
    assert {layer: entry["bytes"] for layer, entry in layers.items()} == {
        layer: bits_at(layer, width) // 8 for layer, width in best.items()
    }
    assert len(set(best.values())) > 1


def test_the_cost_is_the_divergence_of_the_network_with_one_layer_rounded(
    data: Digits, model: Model, chosen: StageResult
) -> None:
    floats = tuple(WeightOverride(match=name, bits="float") for name in ("stem", "body"))
    alone = apply_weights(model, WeightsParams(symmetric=True, overrides=floats), context(data, model)).model
    images = {"image": data.split("calibration").images}
    scores = [open_model(part).run(images)["logits"].astype(np.float64) for part in (model, alone)]
    shares = [np.exp(part) / np.exp(part).sum(axis=1, keepdims=True) for part in scores]
    divergence = np.mean(np.sum(shares[0] * np.log(shares[0] / shares[1]), axis=1))
    assert chosen.facts["layers"]["head"]["cost"]["4"] == pytest.approx(divergence, rel=1e-2)


def test_the_pinned_stage_gives_the_same_network(data: Digits, model: Model, chosen: StageResult) -> None:
    assert chosen.pinned is not None
    pinned = dict(chosen.pinned)
    assert pinned.pop("use") == "quantize.weights"
    again = apply_weights(model, WeightsParams.model_validate(pinned), context(data, model)).model
    assert again.body.SerializeToString() == chosen.model.body.SerializeToString()
    assert again.quant is not None
    assert chosen.model.quant is not None
    assert not again.quant.activations
    assert {name: quant.dtype for name, quant in again.quant.weights.items()} == {
        name: quant.dtype for name, quant in chosen.model.quant.weights.items()
    }


def _tied(**params: Any) -> StageResult:
    settings = MixedParams(sensitivity="hessian", probes=1, samples=32, **params)
    run = plain_context(text(), Path())
    return apply(language_model(tied="matmul"), settings, run)


def test_a_table_that_is_the_head_too_is_one_layer_and_counts_once() -> None:
    found = _tied(bits_per_weight=6, weights_only=SYMMETRIC, bits=(8, 4))
    layers = found.facts["layers"]
    assert set(layers) == {"lookup, head", "up", "down"}
    bits = 5 if layers["lookup, head"]["width"] == "4" else 9
    assert layers["lookup, head"]["bytes"] == WORDS * WIDTH * bits / 8
    assert found.facts["bits_per_weight"] <= 6


@pytest.mark.parametrize("bits_per_weight", [5, 7.2, 9])
def test_the_file_has_the_bytes_that_were_counted(bits_per_weight: float) -> None:
    found = _tied(bits_per_weight=bits_per_weight, weights_only=SYMMETRIC, bits=(8, 4))
    written = to_onnx(found.model, Target("onnxruntime"), dict.fromkeys(("up", "down", "head"), Form.NBITS))
    stored = sum(
        len(tensor.raw_data)
        for tensor in written.graph.initializer
        if any(part in tensor.name for part in ("packed", "table"))
    )
    assert stored == pytest.approx(found.facts["weight_bytes"], abs=64)
    assert found.facts["weight_bytes"] <= found.facts["weight_bytes_allowed"]


def test_overrides_decide_and_what_they_say_of_rounding_stays() -> None:
    overrides = [{"match": "Gather", "bits": 8}, {"match": "up", "method": "hqq"}, {"match": "down", "bits": "float"}]
    base = {"overrides": overrides}
    found = _tied(bits_per_weight=20, weights_only=base, bits=(8, 4))
    widths = {layer: entry["width"] for layer, entry in found.facts["layers"].items()}
    assert widths == {"lookup, head": "8", "up": "8", "down": "float"}
    assert "override" in found.facts["layers"]["down"]["why"]
    assert found.pinned is not None
    again = apply_weights(
        language_model(tied="matmul"),
        WeightsParams.model_validate({name: value for name, value in found.pinned.items() if name != "use"}),
        plain_context(text(), Path()),
    )
    assert again.facts["layers"]["up"]["method"] == "hqq"
    assert set(again.facts["left_in_float"]) == {"down"}


def test_groups_of_other_sizes_are_options_too() -> None:
    bits = (8, 4, {"bits": 8, "group_size": 64}, {"bits": 4, "group_size": 16})
    found = _tied(bits_per_weight=6.5, weights_only=SYMMETRIC, bits=bits)
    costs = found.facts["layers"]["up"]["cost"]
    assert set(costs) == {"8", "4", "8, groups of 64", "4, groups of 16"}
    assert costs["4, groups of 16"] < costs["4"]
    total = sum(entry["cost"][entry["width"]] for entry in found.facts["layers"].values())
    fewer = _tied(bits_per_weight=6.5, weights_only=SYMMETRIC, bits=(8, 4))
    assert total <= sum(entry["cost"][entry["width"]] for entry in fewer.facts["layers"].values()) * 1.0001


@pytest.mark.parametrize("bits_per_weight", [4.6, 5, 5.6, 6.5])
def test_each_layer_gets_the_groups_that_were_chosen_for_it(bits_per_weight: float) -> None:
    bits = (8, 4, {"bits": 8, "group_size": 64}, {"bits": 4, "group_size": 16}, {"bits": 4, "group_size": 64})
    found = _tied(bits_per_weight=bits_per_weight, weights_only=SYMMETRIC, bits=bits)
    assert found.model.quant is not None
    plan = found.model.quant.weights
    stored = {"lookup, head": "table", "up": "up.weight", "down": "down.weight"}
    for layer, entry in found.facts["layers"].items():
        width, _, groups = entry["width"].partition(", groups of ")
        quant = plan[stored[layer]]
        assert (quant.dtype, quant.block) == (f"int{width}", int(groups or 32))


def test_a_budget_that_nothing_meets_says_how_far_it_is() -> None:
    with pytest.raises(StageError, match=r"5\.00 bits each"):
        _tied(bits_per_weight=4.5, weights_only=SYMMETRIC, bits=(8, 4))


def test_size_is_a_share_or_bytes() -> None:
    weights = WORDS * WIDTH + 2 * WIDTH * 128
    share, whole = (_tied(size=size, weights_only=SYMMETRIC).facts for size in (0.2, 0.2 * 4 * weights))
    assert share["weight_bytes_allowed"] == whole["weight_bytes_allowed"] == int(0.8 * weights)
    assert share["layers"] == whole["layers"]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"weights_only": {}}, "nothing to choose by"),
        ({"bits_per_weight": 5}, "say `weights_only` too"),
        ({"size": 0.2, "bits": (8, 4)}, "say `weights_only` too"),
        ({"weights_only": {}, "speedup": 2}, "leaves them in float"),
        ({"weights_only": {}, "size": 0.2, "static": {"ranges": "mse"}}, "leaves them in float"),
        ({"weights_only": {}, "size": 0.2, "bits": ("float",)}, "nothing to choose but float"),
        ({"weights_only": {}, "size": 0.2, "bits": (5,)}, "bits"),
    ],
)
def test_params_that_contradict_each_other_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MixedParams(**params)


def test_bits_for_all_beside_a_choice_are_a_problem() -> None:
    """But for the default, which every lock says."""
    params, usual = (MixedParams(size=0.2, weights_only={"bits": bits}) for bits in (8, 4))
    facts = ModelFacts(ModelForm.ONNX, Target("onnxruntime"), quantized=False)
    assert [problem.path for problem in params.problems(facts)] == ["weights_only.bits"]
    assert not list(usual.problems(facts))


def test_a_node_that_no_override_can_mean_alone_is_said(data: Digits, model: Model) -> None:
    body = onnx.ModelProto()
    body.CopyFrom(model.body)
    next(node for node in body.graph.node if node.name == "head").name = "Conv"
    renamed = OnnxModel(body, model.signature)
    with pytest.raises(UsageError, match="Conv names more than one thing"):
        apply(renamed, MixedParams(size=0.2, weights_only={}), context(data, renamed))


def test_a_graph_without_weights_says_that_there_is_nothing_to_do(data: Digits, model: Model) -> None:
    body = onnx.ModelProto()
    body.CopyFrom(model.body)
    del body.graph.node[:], body.graph.initializer[:]
    body.graph.node.append(helper.make_node("Flatten", ["image"], ["logits"], "flatten"))
    empty = OnnxModel(body, model.signature)
    with pytest.raises(StageError, match="nothing to quantize"):
        apply(empty, MixedParams(size=0.2, weights_only={}), context(data, empty))
