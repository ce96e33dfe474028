"""Cheaper layers begin as near as their form allows, learn what the layer gives, and are chosen within limits; what is pinned makes the same network."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.digit_runs import context, digits_data
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, StageError, UsageError
from compressctl.core.model import Model, Signature, TensorSpec, TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.lower import lower, parity
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.sources.networks import digits_resnet
from compressctl.techniques.search import replacements
from compressctl.techniques.search._cheaper import cheaper
from compressctl.techniques.search._choice import Choice
from compressctl.techniques.search._fitting import fit
from compressctl.techniques.search._sites import GONE, WHOLE, sites_in
from compressctl.techniques.search.params import ReplacementsParams

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


def made() -> TorchModel:
    torch.manual_seed(0)
    return TorchModel(digits_resnet().eval(), IMAGE)


def on_digits(folder: Path) -> RunContext:
    return replace(context(folder, digits_data()), task="classification")


def run_stage(params: dict[str, Any], folder: Path, model: TorchModel | None = None) -> StageResult:
    given = {"steps": 5, "fit_samples": 64, "samples": 128, "bn_samples": 128, **params}
    return replacements.apply(model or made(), ReplacementsParams.model_validate(given), on_digits(folder))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [((3, 3), (1, 1), (1, 1)), ((5, 3), (2, 1), (2, 0))])
def test_what_a_form_can_hold_it_holds(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], bias: bool
) -> None:
    """Convolutions that are separable, or narrow inside, and linear layers of low rank lose nothing."""
    torch.manual_seed(0)
    x = torch.randn(2, 32, 9, 9)
    conv = nn.Conv2d(32, 48, kernel, stride, padding, bias=bias)
    with torch.no_grad():
        depthwise, pointwise = torch.randn(1, 32, *kernel), torch.randn(48, 32, 1, 1)
        separable, narrow = nn.Conv2d(32, 48, kernel, stride, padding, bias=bias), conv
        separable.weight.copy_(pointwise * depthwise)
        core = torch.randn(8, 8, *kernel)
        narrow.weight.copy_(torch.einsum("oa,abhw,bi->oihw", torch.randn(48, 8), core, torch.randn(8, 32)))
        linear = nn.Linear(64, 64, bias=bias)
        linear.weight.copy_(torch.randn(64, 16) @ torch.randn(16, 64))
        for layer, kind, given in (
            (separable, "separable", x),
            (narrow, "bottleneck", x),
            (linear, "low_rank", torch.randn(3, 5, 64)),
        ):
            one = cheaper(layer, ("separable", "bottleneck", "low_rank"))[kind]  # type: ignore[index]
            wanted = layer(given)
            assert torch.allclose(one(given), wanted, atol=1e-4 * float(wanted.abs().max()))


def test_nothing_that_is_hardly_cheaper_is_offered() -> None:
    assert not cheaper(nn.Conv2d(1, 8, 3), ("bottleneck", "low_rank"))
    assert not cheaper(nn.Linear(10, 10), ("low_rank",))
    # In front of a stride, what is inside is computed at every pixel.
    assert not cheaper(nn.Conv2d(16, 16, 2, stride=2), ("bottleneck",))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(0, 30))
def test_fitting_makes_nothing_worse_and_the_same_twice(seed: int, steps: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(16, 24, 3, padding=1)
    x = torch.randn(40, 16, 5, 5)
    with torch.no_grad():
        y = layer(x)
    begun = cheaper(layer, ("separable",))
    first = fit(begun, x, y, 0, 0)["separable"]
    made_ = [cheaper(layer, ("separable",)) for _ in range(2)]
    found = [fit(one, x, y, steps, seed)["separable"] for one in made_]
    assert found[0] == found[1] <= first
    assert all(
        torch.equal(a, b)
        for a, b in zip(made_[0]["separable"].parameters(), made_[1]["separable"].parameters(), strict=True)
    )


@pytest.mark.parametrize("limits", [{"macs": 0.6}, {"macs": 0.3, "parameters": 0.5}, {"parameters": 0.2}])
def test_limits_are_kept_and_what_is_said_is_what_was_made(limits: dict[str, float], tmp_path: Path) -> None:
    result = run_stage({"at_most": limits}, tmp_path)
    for name, limit in limits.items():
        after, before = (result.facts[name][when] for when in ("after", "before"))
        assert result.facts["reached"][name] <= limit
        if name == "macs":
            assert after / before == pytest.approx(result.facts["reached"][name], abs=2e-3)
    kinds = set(result.facts["replacements"].values())
    assert kinds <= {"separable", "bottleneck", "low_rank", "gone"}
    assert isinstance(result.model, TorchModel)
    for name, kind in result.facts["replacements"].items():
        assert isinstance(result.model.body.get_submodule(name), nn.Identity if kind == "gone" else nn.Sequential)
    assert parity(result.model, lower(result.model), {"input": np.ones((2, 1, 8, 8), np.float32)})["output"] < 1e-4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.2, 0.95))
def test_the_choice_is_the_best_of_all(seed: int, share: float) -> None:
    """Beside every combination, of a block that can go and of layers in it and outside of it."""
    random = np.random.default_rng(seed)
    params = ReplacementsParams.model_validate({"at_most": {"macs": share}, "match": "block4*", "samples": 64})
    run = on_digits(Path())
    model = made()
    sites = sites_in(model, params)
    for site in sites:
        for kind in () if site.is_block else ("separable", "bottleneck"):
            site.alternatives[kind] = nn.Identity()
            site.macs[kind] = float(random.uniform(0.1, 0.7)) * site.macs[WHOLE]
            site.parameters[kind] = site.macs[kind]
    rises = {
        site.name: {kind: 0.0 if kind == WHOLE else float(random.random()) for kind in site.options} for site in sites
    }
    choice = Choice(sites, model, params, run)
    best = None
    for kinds in itertools.product(*(site.options for site in sites)):
        chosen = {site.name: kind for site, kind in zip(sites, kinds, strict=True)}
        gone = {site.name for site in sites if site.is_block and chosen[site.name] == GONE}
        held = {site.name: GONE if site.inside in gone else chosen[site.name] for site in sites}
        loss = sum(rises[site.name].get(held[site.name], 0.0) for site in sites)
        if choice._share("macs", held) <= share + 1e-9 and (best is None or loss < best):
            best = loss
    if best is None:
        with pytest.raises(StageError, match=r"macs .* at least"):
            choice._chosen(rises)
        return
    found = choice._chosen(rises)
    assert choice._share("macs", found) <= share + 1e-6
    assert sum(rises[site.name].get(found[site.name], 0.0) for site in sites) == pytest.approx(best, abs=1e-6)


def test_nothing_is_replaced_that_no_limit_asks_for(tmp_path: Path) -> None:
    """Of a network of random weights hardly anything loses anything."""
    result = run_stage({"at_most": {"macs": 0.97}}, tmp_path)
    assert len(result.facts["replacements"]) == 1


def test_a_pinned_choice_is_the_network_that_was_found(tmp_path: Path) -> None:
    found = run_stage({"at_most": {"macs": 0.4}}, tmp_path)
    assert found.pinned is not None
    given_ = {key: value for key, value in found.pinned.items() if key != "use"}
    again = replacements.apply(made(), ReplacementsParams.model_validate(given_), on_digits(tmp_path))
    assert isinstance(found.model, TorchModel)
    assert isinstance(again.model, TorchModel)
    one, other = found.model.body.state_dict(), again.model.body.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_limit_on_latency_is_held_by_what_is_measured(tmp_path: Path) -> None:
    """The clock is half as fast as tables of single changes make believe."""
    whole = sum(value.numel() for value in made().body.parameters())

    def clock(models: Sequence[Model]) -> tuple[float, ...]:
        return tuple(
            (sum(value.numel() for value in each.body.parameters()) / whole) ** 0.5
            for each in models
            if isinstance(each, TorchModel)
        )

    params = ReplacementsParams.model_validate(
        {"at_most": {"latency": 0.7}, "steps": 2, "fit_samples": 64, "samples": 64, "bn_samples": 0}
    )
    found = replacements.apply(made(), params, replace(on_digits(tmp_path), latency_ms=clock))
    assert isinstance(found.model, TorchModel)
    took = (sum(value.numel() for value in found.model.body.parameters()) / whole) ** 0.5
    assert found.facts["reached"]["latency"] == pytest.approx(took, abs=1e-4)
    assert took <= 0.7


class Reads(nn.Module):
    """Code that reads a layer's weight itself beside one that is called, and rows that are no samples."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called, self.head = nn.Linear(64, 64), nn.Linear(16, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.called(x.reshape(-1, 16)).reshape(x.shape[0], 4, 64).mean(1)
        found: Tensor = self.head(torch.relu(self.read(rows) + nn.functional.linear(rows, self.read.weight)))
        return found


def test_layers_whose_weight_is_read_elsewhere_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TorchModel(Reads().eval(), IMAGE)
    assert [site.name for site in sites_in(model, ReplacementsParams.model_validate({"at_most": {"macs": 0.9}}))] == [
        "called",
        "head",
    ]
    result = run_stage({"at_most": {"macs": 0.94}, "criterion": "outputs"}, tmp_path, model)
    assert result.facts["replacements"] == {"called": "low_rank"}
    assert result.facts["macs"]["after"] / result.facts["macs"]["before"] == pytest.approx(
        result.facts["reached"]["macs"], abs=1e-3
    )
    assert isinstance(result.model, TorchModel)
    assert result.model.body(*example_inputs(IMAGE, 3)).shape == (3, 10)


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"at_most": {"macs": 0.001}}, StageError, "no choice of cheaper layers keeps the limits: macs"),
        ({"at_most": {"macs": 0.5}, "match": "nowhere*"}, UsageError, "nowhere"),
        ({"replacements": {"nowhere": "separable"}}, UsageError, "names nowhere"),
        ({"replacements": {"block1": "separable"}}, UsageError, "block1 cannot be separable"),
        ({"replacements": {"stem.conv": "bottleneck"}}, UsageError, "stem.conv cannot be bottleneck"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    params: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        run_stage(params, tmp_path)


def test_a_network_without_such_layers_says_so(tmp_path: Path) -> None:
    model = TorchModel(nn.Sequential(nn.Conv2d(1, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGE)
    with pytest.raises(NothingToCompressError, match="no layer that a cheaper one"):
        run_stage({"at_most": {"macs": 0.5}}, tmp_path, model)
