"""factorize.* on whole networks: what it replaces, what it leaves, and that both forms give one result."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.costs import total_macs, total_parameters
from support.factorizing import as_model, context, digits_context, random_images, run_onnx, run_torch
from support.recipes import recipe_of
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import Form, Model
from compressctl.graph.lower import lower
from compressctl.pipeline.serialization import read_model, write_model
from compressctl.sources.builtin import load as load_builtin
from compressctl.sources.params import BuiltinParams
from compressctl.techniques.factorize.cp import apply as cp
from compressctl.techniques.factorize.params import (
    CpParams,
    RankRule,
    Regularization,
    SvdOverride,
    SvdParams,
    TuckerParams,
)
from compressctl.techniques.factorize.svd import apply as svd
from compressctl.techniques.factorize.tucker import apply as tucker
from compressctl.training.supervision.params import RecoveryParams

PLAIN = {"whitening": False, "rank": RankRule(ratio=0.5)}
STAGES: dict[str, Any] = {
    "svd": (svd, SvdParams(**PLAIN)),
    "spatial": (svd, SvdParams(**PLAIN, conv="spatial")),
    "tucker": (tucker, TuckerParams(**PLAIN)),
    "cp": (cp, CpParams(**PLAIN)),
    "cp of axes": (cp, CpParams(**PLAIN, split_kernel=True)),
}


@pytest.fixture(scope="module")
def network() -> Model:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, (5, 3), stride=2, padding=(2, 1), bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 36, 40),
        nn.ReLU(),
        nn.Linear(40, 10),
    ]
    return as_model(nn.Sequential(*layers), (3, 12, 12))


@pytest.fixture(scope="module")
def graph(network: Model) -> Model:
    return lower(network)


@pytest.fixture(scope="module")
def digits() -> Model:
    return load_builtin(BuiltinParams(name="digits-resnet"), Path(), 0)


@pytest.fixture(scope="module")
def digits_graph(digits: Model) -> Model:
    return lower(digits)


def _row(facts: Any, layer: str) -> dict[str, Any]:
    return next(row for row in facts["layers"] if row["layer"] == layer)


@pytest.mark.parametrize("stage", STAGES)
def test_both_forms_give_one_result(stage: str, network: Model, graph: Model) -> None:
    apply, params = STAGES[stage]
    from_torch, from_graph = apply(network, params, context()), apply(graph, params, context())
    images = random_images(4, 3, 12, 12)
    np.testing.assert_allclose(run_torch(from_torch.model.body, images), run_onnx(from_graph.model, images), atol=1e-5)
    left = [dict(result.facts["untouched"]) for result in (from_torch, from_graph)]
    kinds = [[entry.pop("kind") for entry in part["layers"]] for part in left]
    assert {"Linear", "Conv2d"}.issuperset(kinds[0])
    assert {"Gemm", "MatMul", "Conv"}.issuperset(kinds[1])
    assert {**from_torch.facts, "untouched": None} == {**from_graph.facts, "untouched": None}
    assert left[0]["parameters"] == left[1]["parameters"]


@pytest.mark.parametrize("stage", STAGES)
def test_facts_count_what_the_graph_costs(stage: str, graph: Model) -> None:
    apply, params = STAGES[stage]
    result = apply(graph, params, context())
    assert result.facts["factorized"] >= 2
    for what, total in (("macs", total_macs), ("parameters", total_parameters)):
        assert result.facts[f"{what}_before"] == total(graph.body)
        assert result.facts[f"{what}_after"] == total(result.model.body)
        assert result.facts[f"{what}_after"] < result.facts[f"{what}_before"]


def test_the_pieces_of_torch_layers_lower_to_the_nodes_of_the_graph_s(network: Model, graph: Model) -> None:
    lowered = lower(svd(network, SvdParams(**PLAIN), context()).model).body.graph
    direct = svd(graph, SvdParams(**PLAIN), context()).model.body.graph
    assert [node.name for node in lowered.node] == [node.name for node in direct.node]
    weights = [{t.name for t in one.initializer if t.name.endswith(("weight", "bias"))} for one in (lowered, direct)]
    assert weights[0] == weights[1]
    assert "2.vertical.weight" in weights[0]


@pytest.mark.parametrize("stage", STAGES)
def test_the_network_that_was_given_stays_as_it_is(stage: str, network: Model) -> None:
    apply, params = STAGES[stage]
    before = {name: tensor.clone() for name, tensor in network.body.state_dict().items()}
    apply(network, params, context())
    assert {name: tensor.shape for name, tensor in network.body.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert all(torch.equal(before[name], tensor) for name, tensor in network.body.state_dict().items())


def test_the_pieces_are_plain_layers_that_train(network: Model) -> None:
    body = svd(network, SvdParams(**PLAIN), context()).model.body
    kinds = {type(module) for module in body.modules()}
    assert kinds == {nn.Sequential, nn.Conv2d, nn.Linear, nn.ReLU, nn.Flatten}
    body(torch.randn(2, 3, 12, 12)).sum().backward()
    assert all(parameter.grad is not None for parameter in body.parameters())


@pytest.mark.parametrize("form", [Form.TORCH, Form.ONNX])
def test_whitened_facts_tell_the_error_of_the_layer_s_output(form: Form, digits: Model, digits_graph: Model) -> None:
    """The first block's convolution, whose inputs neither form's ranks change: with the samples it was calibrated on."""
    run = digits_context()
    model = digits if form is Form.TORCH else digits_graph
    params = SvdParams(rank="evbmf", conv="channel", overrides=(SvdOverride(match="*", rank="full"),))
    params = params.model_copy(
        update={"overrides": (*params.overrides, SvdOverride(match="block1.body.0.conv", rank=6))}
    )
    result = svd(model, params, run)
    assert run.data is not None
    batch = next(run.data.split("calibration").batches(200))
    inputs = next(iter(batch.inputs.values()))
    before, after = (
        _inner(model, "block1.body.0.conv", inputs),
        _inner(result.model, "block1.body.0.conv.expand", inputs),
    )
    measured = np.linalg.norm(before - after) / np.linalg.norm(before)
    assert _row(result.facts, "block1.body.0.conv")["error"] == pytest.approx(measured, rel=1e-2)
    assert _row(result.facts, "block1.body.0.conv")["rank"] == 6


def _inner(model: Model, layer: str, inputs: np.ndarray) -> np.ndarray:
    """What one layer gives, without its bias (a graph has the normalization's in it)."""
    if model.form is Form.TORCH:
        seen: list[Tensor] = []
        model.body.get_submodule(layer).register_forward_hook(lambda module, given, made: seen.append(made))
        run_torch(model.body, inputs)
        return seen[-1].numpy()
    from compressctl.graph.execute import ActivationRecorder

    node = next(node for node in model.body.graph.node if node.name == layer)
    bias = next(tensor for tensor in model.body.graph.initializer if tensor.name == node.input[2])
    from onnx import numpy_helper

    given = ActivationRecorder(model.body, [node.output[0]]).run({model.body.graph.input[0].name: inputs})[
        node.output[0]
    ]
    return given - numpy_helper.to_array(bias).reshape(1, -1, 1, 1)


def test_whitening_keeps_more_accuracy_at_the_same_size(digits_graph: Model) -> None:
    run = digits_context()
    assert run.score is not None
    scores = {}
    for whitening in (True, False):
        params = SvdParams(rank=RankRule(ratio=0.6), conv="channel", whitening=whitening)
        scores[whitening] = run.score(svd(digits_graph, params, run).model, "test")
    assert scores[True] > scores[False] + 10


def test_validated_ranks_hold_their_drop_on_the_validation_split(digits_graph: Model) -> None:
    run = digits_context()
    assert run.score is not None
    result = svd(digits_graph, SvdParams(rank=RankRule(validation_drop=1.0)), run)
    assert run.score(digits_graph, "validation") - run.score(result.model, "validation") <= 1.0
    assert result.facts["macs_after"] < 0.9 * result.facts["macs_before"]
    assert len(result.facts["validated"]) <= 7


def test_layers_slower_in_pieces_stay_whole_and_say_so(network: Model) -> None:
    """A clock that finds only the last layer faster; it is given each layer alone, at the shape of its real input."""
    shapes = []

    def latency_ms(models: Sequence[Model]) -> tuple[float, ...]:
        shapes.append(models[0].signature.inputs[0].shape)
        assert all(run_onnx(model, random_images(2, *shapes[-1][1:])).shape[0] == 2 for model in models)  # type: ignore[arg-type]
        return (2.0, 1.0) if shapes[-1] == ("batch", 40) else (2.0, 3.0)

    facts = svd(network, SvdParams(**PLAIN), context(latency_ms=latency_ms)).facts
    assert shapes == [("batch", 3, 12, 12), ("batch", 16, 12, 12), ("batch", 864), ("batch", 40)]
    assert facts["factorized"] == 1
    row = _row(facts, "0")
    assert row["left_whole"] == "slower in pieces: 3.0000 ms instead of 2.0000 ms"
    assert (row["latency_ms_before"], row["latency_ms_after"]) == (2.0, 3.0)
    assert row["macs_after"] == row["macs_before"]
    assert _row(facts, "7")["latency_ms_after"] == 1.0


@pytest.mark.parametrize("stage", STAGES)
def test_what_the_cache_stores_is_the_factorized_network(stage: str, digits: Model, tmp_path: Path) -> None:
    apply, params = STAGES[stage]
    made = apply(digits, params, context()).model
    write_model(made, tmp_path, digits)
    read = read_model(tmp_path, lambda: replace(digits, body=copy.deepcopy(digits.body)), recipe_of(tmp_path))
    images = random_images(3, 1, 8, 8)
    np.testing.assert_array_equal(run_torch(made.body, images), run_torch(read.body, images))


def test_a_killed_stage_goes_on_with_the_ranks_that_it_had_found(network: Model, tmp_path: Path) -> None:
    """Whatever a second look at the clock says."""

    def clock(after: float) -> Any:
        return lambda models: (1.0, after)

    first = svd(network, SvdParams(**PLAIN), context(latency_ms=clock(0.5), checkpoint=tmp_path / "stage"))
    again = svd(network, SvdParams(**PLAIN), context(latency_ms=clock(2.0), checkpoint=tmp_path / "stage"))
    assert first.facts["factorized"] == 4
    assert again.facts == first.facts
    (tmp_path / "stage" / "ranks.json").write_text("{")
    anew = svd(network, SvdParams(**PLAIN), context(latency_ms=clock(2.0), checkpoint=tmp_path / "stage"))
    assert anew.facts["factorized"] == 0


def test_without_hold_latency_nothing_is_timed(network: Model) -> None:
    def latency_ms(models: Sequence[Model]) -> tuple[float, ...]:
        raise AssertionError

    facts = svd(network, SvdParams(**PLAIN, skip_slower=False), context(latency_ms=latency_ms)).facts
    assert facts["factorized"] == 4


def test_overrides_choose_by_name_and_type(network: Model) -> None:
    overrides = (
        SvdOverride(match="Conv2d", rank="full"),
        SvdOverride(match="2", rank=5, conv="channel"),
        SvdOverride(match="7", rank=3),
    )
    facts = svd(network, SvdParams(**PLAIN, overrides=overrides), context()).facts
    assert _row(facts, "0")["left_whole"] == "the recipe leaves it whole"
    assert (_row(facts, "2")["rank"], _row(facts, "2")["scheme"]) == (5, "channel")
    assert _row(facts, "7")["rank"] == 3


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (SvdOverride(match="layer9*", rank="full"), r"'layer9\*' matches no layer[\s\S]*there are: 0, 2, 5"),
        (
            SvdOverride(match="7", rank=96),
            r"rank 96 is more than this layer has \(7 is 10 x 40\)[\s\S]*choose 10 or less",
        ),
    ],
)
def test_a_slip_in_an_override_is_an_error(override: SvdOverride, says: str, network: Model) -> None:
    with pytest.raises(UsageError, match=says):
        svd(network, SvdParams(**PLAIN, overrides=(override,)), context())


class Odd(nn.Module):
    """A layer of each kind that cannot be replaced, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(32, 32)
        self.shared = nn.Linear(32, 32)
        self.alias = self.shared
        self.tied = nn.Linear(32, 32)
        self.tied_too = nn.Linear(32, 32)
        self.tied_too.weight = self.tied.weight
        self.unused = nn.Linear(32, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.grouped = nn.Conv1d(32, 32, 3, padding=1, groups=4)
        self.reflected = nn.Conv1d(32, 32, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied_too(self.tied(self.alias(self.shared(self.plain(x)))))
        x = self.attention(x, x, x)[0] + nn.functional.linear(x, self.unused.weight)
        return self.reflected(self.grouped(x.transpose(1, 2))).mean(2)


def test_what_cannot_be_factorized_is_listed_with_the_reason() -> None:
    model = as_model(Odd(), (6, 32), (32,))
    facts = svd(model, SvdParams(**PLAIN), context()).facts
    assert [row["layer"] for row in facts["layers"]] == ["plain"]
    reasons = facts["cannot_be_factorized"]
    assert reasons.keys() == {"shared", "tied", "tied_too", "unused", "attention.out_proj", "grouped", "reflected"}
    for name, says in {
        "shared": "also used as alias",
        "tied": "tied to another",
        "unused": "forward does not call it",
        "attention.out_proj": "NonDynamicallyQuantizableLinear is not a plain layer",
        "grouped": "4 groups",
        "reflected": "pads by reflect values",
    }.items():
        assert says in reasons[name]


def test_layers_whose_weights_other_code_reads_are_found_by_trying() -> None:
    """torch's own encoder asks its linear layers for their weights, to choose a fast way."""
    encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    network = nn.Sequential(nn.Linear(16, 32), nn.TransformerEncoder(encoder, 1), nn.Flatten(), nn.Linear(32 * 5, 10))
    facts = svd(as_model(network, (5, 16)), SvdParams(**PLAIN), context()).facts
    assert [row["layer"] for row in facts["layers"]] == ["0", "3"]
    read = {"1.layers.0.linear1", "1.layers.0.linear2"}
    assert read <= facts["cannot_be_factorized"].keys()
    assert {facts["cannot_be_factorized"][name] for name in read} == {"the code around it reads its weight"}


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.layer(x)))

    model = as_model(Twice(), (5, 24), (5, 24))
    facts = svd(model, SvdParams(**PLAIN), context()).facts
    assert facts["macs_before"] == 2 * 5 * 24 * 24
    assert _row(facts, "layer")["parameters_before"] == 24 * 24 + 24


def test_a_bare_layer_is_a_network_too() -> None:
    model = as_model(nn.Linear(40, 30), (40,), (30,))
    result = svd(model, SvdParams(whitening=False, rank=8), context())
    assert run_torch(result.model.body, random_images(2, 40)).shape == (2, 30)


@pytest.mark.parametrize("form", [Form.TORCH, Form.ONNX])
def test_a_network_without_such_layers_is_refused(form: Form) -> None:
    model = as_model(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Flatten()), (8, 3, 3), (8,))
    with pytest.raises(NothingToCompressError, match=r"nothing to factorize[\s\S]*8 groups"):
        svd(model if form is Form.TORCH else lower(model), SvdParams(**PLAIN), context())


def test_sparse_names_of_replaced_weights_are_forgotten(network: Model) -> None:
    sparse = replace(network, sparse=("0.weight", "7.weight"))
    params = SvdParams(**PLAIN, overrides=(SvdOverride(match="0", rank="full"),))
    assert svd(sparse, params, context()).model.sparse == ("0.weight",)


@pytest.mark.slow
def test_training_the_pieces_wins_back_accuracy(digits: Model) -> None:
    run = digits_context()
    assert run.score is not None
    scores = []
    for finetune in (None, RecoveryParams(epochs=2, learning_rate=0.05, batch_size=32)):
        result = tucker(digits, TuckerParams(rank=RankRule(ratio=0.5), finetune=finetune), run)
        scores.append(run.score(lower(result.model), "test"))
    assert scores[1] > scores[0] + 5
    assert result.facts["finetune"]["epochs"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("conv", ["channel", "spatial"])
def test_a_nuclear_norm_gathers_the_weights_in_few_directions(conv: Any, digits: Model) -> None:
    """Against the same training without it: less error at the same ranks."""
    run = digits_context()
    errors = []
    for strength in (1e-9, 5.0):
        regularize = Regularization(epochs=2, learning_rate=0.01, strength=strength)
        params = SvdParams(rank=RankRule(ratio=0.4), conv=conv, regularization=regularize, skip_slower=False)
        facts = svd(digits, params, run).facts
        errors.append(math.fsum(row.get("error", 0.0) for row in facts["layers"]))
    assert errors[1] < 0.8 * errors[0]
