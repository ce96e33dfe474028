"""Tables say of every option what the stage does that a recipe asks for with it: bytes, and how far outputs move."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx.numpy_helper import to_array
from support.digit_network import Samples, context, digits, fitted_network

from compressctl.core.model import OnnxModel
from compressctl.core.registry import load
from compressctl.core.technique import RunContext, techniques
from compressctl.numerics.output_distance import kl_divergence
from compressctl.search.measure_tables import SHARES, Measuring
from compressctl.search.program import Choice, Program
from compressctl.search.tables import LayerOption, Tables

LAYERS = ("stem", "body", "head")
WIDE = ("body", "head")
"""With more weights to an output than a codebook has entries."""


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    found = fitted_network(digits())
    assert isinstance(found, OnnxModel)
    return found


@pytest.fixture(scope="module")
def run(model: OnnxModel) -> RunContext:
    return context(digits(), model)


@pytest.fixture(scope="module")
def tables(model: OnnxModel, run: RunContext) -> Tables:
    return Measuring(model, run, None, SHARES).tables("key", len(model.body.SerializeToString()), {})


def option(tables: Tables, layer: str, name: str) -> LayerOption:
    return next(one for one in _layer(tables, layer).options if one.name == name)


def _layer(tables: Tables, name: str) -> Any:
    return next(layer for layer in tables.layers if layer.name == name)


def applied(model: OnnxModel, run: RunContext, stages: tuple[Mapping[str, Any], ...]) -> OnnxModel:
    """What a recipe with these stages makes."""
    for stage in stages:
        spec = techniques.get(stage["use"])
        params = spec.params.model_validate(
            {key: value for key, value in stage.items() if key not in ("id", "use", "if_slower")}
        )
        result = load(spec.implementation)(model, params, run).model
        assert isinstance(result, OnnxModel)
        model = result
    return model


def outputs(model: OnnxModel, run: RunContext, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    assert run.open is not None
    return next(iter(run.open(model).run(dict(inputs)).values()))


def all_float(tables: Tables) -> dict[str, LayerOption]:
    return {name: option(tables, name, "float") for name in LAYERS}


def test_every_layer_has_every_option(tables: Tables) -> None:
    assert [layer.name for layer in tables.layers] == list(LAYERS)
    for layer in tables.layers:
        names = [one.name for one in layer.options]
        shared = ["shared16", "shared8"] if layer.name in WIDE else []
        expected = ["int8", "int4", "float", "weights8", "weights4", *shared]
        assert names[: len(expected)] == expected
        assert all("rank" in name for name in names[len(expected) :])
    assert any(one.rank for one in _layer(tables, "body").options)
    assert not tables.left_out


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["int8", "int4", "weights8", "weights4"])
def test_a_distance_is_that_of_the_file_that_the_recipe_makes(
    layer: str, name: str, tables: Tables, model: OnnxModel, run: RunContext
) -> None:
    assert run.data is not None
    choice = {**all_float(tables), layer: option(tables, layer, name)}
    made = applied(model, run, Program(tables).stages(choice))
    batch = next(run.data.split("calibration").batches(tables.samples))
    inputs = {model.signature.inputs[0].name: next(iter(batch.inputs.values()))}
    far = kl_divergence(outputs(model, run, inputs), outputs(made, run, inputs))
    assert option(tables, layer, name).distance[choice[layer].width] == pytest.approx(far, rel=0.05, abs=1e-6)


@pytest.mark.parametrize("layer", WIDE)
@pytest.mark.parametrize("name", ["shared16", "shared8"])
def test_a_distance_of_shared_values_is_that_of_the_float_file_that_the_stage_makes(
    layer: str, name: str, tables: Tables, model: OnnxModel, run: RunContext
) -> None:
    """What 8 bits lose on top is the layer's own in 8 bits."""
    assert run.data is not None
    one = option(tables, layer, name)
    share, static = Program(tables).stages({**all_float(tables), layer: one})
    assert static["use"] == "quantize.static"
    made = applied(model, run, (share,))
    batch = next(run.data.split("calibration").batches(tables.samples))
    inputs = {model.signature.inputs[0].name: next(iter(batch.inputs.values()))}
    far = kl_divergence(outputs(model, run, inputs), outputs(made, run, inputs))
    # The stage draws other rows of the layer's inputs where it looks at fewer layers.
    assert one.distance["shared"] == pytest.approx(far, rel=0.3, abs=1e-6)
    assert one.distance["int8"] == option(tables, layer, "int8").distance["int8"]
    assert one.adds_ms == option(tables, layer, "int8").adds_ms


def test_what_was_fitted_to_few_samples_is_told_apart_by_others(model: OnnxModel) -> None:
    """Eight samples are fitted better than others; that is no gain."""
    given = digits()
    few = replace(
        given,
        splits={
            **given.splits,
            "calibration": Samples(*(part[:8] for part in vars(given.split("calibration")).values())),
        },
    )
    run = context(few, model)

    def far(judges: Samples | None) -> tuple[Tables, float]:
        found = Measuring(model, run, None, SHARES, judges=judges).tables("key", 1000, {})
        thin = [one for name in WIDE for one in _layer(found, name).options if one.rank is not None]
        return found, sum(one.distance["low rank"] for one in thin)

    by_others, by_themselves = far(few.split("validation")), far(None)
    assert (by_others[0].split, by_others[0].samples) == ("validation", 256)
    assert (by_themselves[0].split, by_themselves[0].samples) == ("calibration", 8)
    assert by_others[1] > 1.1 * by_themselves[1]


def test_shared_values_in_8_bits_are_few_in_the_file(tables: Tables, model: OnnxModel, run: RunContext) -> None:
    choice = {**all_float(tables), **{name: option(tables, name, "shared8") for name in WIDE}}
    made = applied(model, run, Program(tables).stages(choice))
    assert made.quant is not None
    for name in WIDE:
        weight = next(weight for weight in made.quant.weights if weight.startswith(name))
        values = to_array(next(tensor for tensor in made.body.graph.initializer if tensor.name == weight))
        quant = made.quant.weights[weight]
        by_output = np.moveaxis(values, quant.axis or 0, 0).reshape(values.shape[quant.axis or 0], -1)
        codes = np.rint(by_output / np.asarray(quant.scale).reshape(-1, 1))
        assert max(len(np.unique(row)) for row in codes) <= 8


def test_what_is_rounded_more_is_farther(tables: Tables) -> None:
    for layer in LAYERS:
        far = {one.name: sum(one.distance.values()) for one in _layer(tables, layer).options}
        assert far["float"] == 0
        assert far["int8"] < far["int4"]
        assert far["weights8"] < far["weights4"]
        assert layer not in WIDE or far["shared16"] < far["shared8"]


def test_a_choice_of_everything_at_once_is_a_recipe_that_runs(
    tables: Tables, model: OnnxModel, run: RunContext
) -> None:
    rank = next(one for one in _layer(tables, "body").options if one.rank)
    choice: Choice = {
        "stem": option(tables, "stem", "int8"), "body": rank, "head": option(tables, "head", "weights4"),
    }  # fmt: skip
    stages = Program(tables).stages(choice)
    assert [stage["use"] for stage in stages] == ["factorize.svd", "quantize.weights", "quantize.static"]
    made = applied(model, run, stages)
    assert made.quant is not None
    kinds = {name: quant.dtype for name, quant in made.quant.weights.items()}
    assert sorted(kinds.values()) == ["int8", "int8", "int8", "uint4"]
    assert "head" in made.quant.float_nodes
    assert {node.name.split(".")[0] for node in made.body.graph.node} >= {"stem", "body", "head"}


def test_without_time_layers_keep_their_first_option(model: OnnxModel, run: RunContext) -> None:
    found = Measuring(model, run, 0.0, SHARES).tables("key", 1000, {})
    assert {one.name for layer in found.layers for one in layer.options} == {"int8"}
    assert len(found.left_out) >= len(LAYERS)
