"""Subnetworks that share weights are the ones that are cut; what is searched keeps its limits; the recipe that a search pins makes the same network."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.digit_runs import context, digits_data
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, StageError, UsageError
from compressctl.core.model import Model, Signature, StageRecord, TensorSpec, TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.lower import lower, parity
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.layers.live_values import live_values
from compressctl.sources.modules.fewer_tokens import FewerTokens
from compressctl.sources.networks import digits_depthwise, digits_resnet
from compressctl.techniques.search import architecture, supernet
from compressctl.techniques.search._evolution import Sensitivity, by_threshold, evolved, fitted, measured
from compressctl.techniques.search._shared_weights import SharedWeights
from compressctl.techniques.search._space import Space, Subnetwork
from compressctl.techniques.search.params import Architecture, ArchitectureParams, SupernetParams
from compressctl.techniques.search.supernet import Sampling, Sandwich
from compressctl.training.data import tensor_batches
from compressctl.training.hooks import StepInfo
from compressctl.training.objective import first_output

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


class Joined(nn.Module):
    """Layers that read several others' channels, grouped ones, a flattened map, and norms of other kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 16, 3, padding=1)
        self.two = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, groups=2), nn.BatchNorm2d(32), nn.PReLU(32))
        self.up = nn.ConvTranspose2d(48, 16, 2, stride=2)
        self.norm = nn.GroupNorm(1, 16)
        self.down = nn.Conv2d(16, 8, 3, stride=4)
        self.mlp = nn.Sequential(nn.Linear(8 * 4 * 4, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        x = torch.cat([x, self.two(x)], 1)
        x = self.down(self.norm(self.up(x)))
        found: Tensor = self.mlp(x.flatten(1))
        return found


class Steps(nn.Module):
    """A recurrent layer over rows, its hidden units read by a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(8, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.rows(x[:, 0])[0][:, -1])
        return found


class FusedBlock(nn.Module):
    """Query, key and value of one Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.norm1, self.qkv, self.proj = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm2 = nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens, _ = x.shape
        parts = self.qkv(self.norm1(x)).reshape(samples, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.proj(mixed.transpose(1, 2).reshape(samples, tokens, -1))
        found: Tensor = x + self.mlp(self.norm2(x))
        return found


class Patches(nn.Module):
    """Sixteen patches in blocks, and a token before them that is read where there is a class, else the mean of all."""

    def __init__(self, blocks: Sequence[nn.Module], *, has_class: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, stride=2)
        self.first = nn.Parameter(torch.randn(1, 1, 32))
        self.positions = nn.Parameter(0.3 * torch.randn(1, 17, 32))
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head, self.has_class = nn.LayerNorm(32), nn.Linear(32, 10), has_class

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(tokens.shape[0], -1, -1), tokens], 1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        found: Tensor = self.head(tokens[:, 0] if self.has_class else tokens.mean(1))
        return found


def torchs_own() -> nn.Module:
    layers = [nn.TransformerEncoderLayer(32, 4, 64, 0.0, norm_first=True, batch_first=True) for _ in range(3)]
    return Patches(layers, has_class=False)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": digits_resnet,
    "depthwise": digits_depthwise,
    "joined": Joined,
    "recurrent": Steps,
    "transformer": lambda: Patches([FusedBlock() for _ in range(4)], has_class=True),
    "torch's own": torchs_own,
}
TOKENS: dict[str, Literal["all", "prune", "merge"]] = {"transformer": "prune", "torch's own": "merge"}


def made(name: str) -> TorchModel:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.running_mean.normal_()  # type: ignore[union-attr,operator]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr,operator]
    return TorchModel(network, IMAGE)


def on_digits(folder: Path) -> RunContext:
    return replace(context(folder, digits_data()), task="classification")


def space_of(model: TorchModel, tokens: Literal["all", "prune", "merge"] = "all", *, is_sorted: bool = True) -> Space:
    return Space(model, SupernetParams(tokens=tokens), on_digits(Path()), is_sorted=is_sorted)


@pytest.fixture(scope="module", params=NETWORKS)
def space(request: pytest.FixtureRequest) -> Space:
    model = made(request.param)
    ordered = space_of(model, is_sorted=False).narrower.sorted()
    return space_of(replace(model, body=ordered.body), TOKENS.get(request.param, "all"))


@pytest.mark.parametrize("name", NETWORKS)
def test_sorted_channels_are_the_same_function_the_strongest_first(name: str) -> None:
    model = made(name)
    before = space_of(model, is_sorted=False)
    ordered = before.narrower.sorted()
    inputs = example_inputs(model.signature, 5)
    with torch.no_grad():
        assert torch.allclose(ordered.body(*inputs), model.body(*inputs), atol=1e-5)
        # The narrowest of the sorted one holds what was ranked highest.
        smallest = Subnetwork(tuple((group, before.widths(group)[0]) for group in before.groups))
        one, other = before.cut(smallest).body, space_of(ordered).cut(smallest).body
        assert torch.allclose(one(*inputs), other(*inputs), atol=1e-5)
    pairs = zip(before.model.body.parameters(), ordered.body.parameters(), strict=True)
    moved = [not torch.equal(one, other) for one, other in pairs]
    assert any(moved)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), trains=st.booleans())
def test_shared_weights_compute_what_the_cut_network_does(space: Space, seed: int, trains: bool) -> None:
    network = space.model.body.train(trains)
    shared = SharedWeights(network, space.cut_of, space.prefix)
    one = space.random(np.random.default_rng(seed))
    inputs = example_inputs(space.model.signature, 4)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    cut = space.cut(one).body.train(trains)
    found, wanted = shared(network, one, inputs), cut(*inputs)
    assert isinstance(found, Tensor)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert all(torch.equal(value, statistics[name]) for name, value in network.named_buffers())
    network.zero_grad()
    found.square().sum().backward()
    wanted.square().sum().backward()
    ours, theirs = (
        sum(float(p.grad.double().square().sum()) for p in each.parameters() if p.grad is not None)
        for each in (network, cut)
    )
    assert ours == pytest.approx(theirs, rel=1e-4)
    network.zero_grad()
    network.eval()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_costs_are_those_of_the_cut_network(space: Space, seed: int) -> None:
    from compressctl.techniques.prune._costs import cost, layers

    one = space.random(np.random.default_rng(seed))
    measured = layers(space.cut(one).body.eval(), example_inputs(space.model.signature))
    assert space.macs(one) == cost("macs", measured, (), {})
    assert space.parameters(one) == cost("parameters", measured, (), {})
    if space.prefix(one):
        return  # what tokens that go need themselves is not foretold
    alive = live_values(space.cut(one).body.eval(), example_inputs(space.model.signature, 2)).peak() / 2
    assert alive <= space.values(one) * (1 + 1e-6) <= 1.1 * alive


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.15, 0.95))
def test_what_is_searched_keeps_the_limits_and_has_no_room_left(space: Space, seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    limit = share * space.macs(space.whole)
    known = Sensitivity(
        {
            name: {width: float(generator.random()) for width in group.widths} | {group.whole: 0.0}
            for name, group in space.groups.items()
        },
        {name: float(generator.random()) for name in space.blocks} if space.most_gone else {},
    )

    def over(one: Subnetwork) -> float:
        return space.macs(one) / limit - 1

    losses: dict[Subnetwork, float] = {}

    def loss(one: Subnetwork) -> float:
        assert one not in losses
        losses[one] = float(generator.random())
        return losses[one]

    smallest = space.smallest(np.random.default_rng(0))
    first, other = by_threshold(space, known, over), fitted(space, space.random(generator), over, generator)
    if over(smallest) <= 0:
        assert first is not None
        assert other is not None
    for one in (first, other):
        if one is None:
            continue
        assert over(one) <= 0
        assert len(one.gone) <= space.most_gone
        wider = [
            one.with_width(name, width) for name, held in one.widths for width in space.widths(name) if width > held
        ]
        # A layer inside a block that is gone costs nothing, however wide it is.
        assert all(over(more) > 0 for more in wider)
    if first is None:
        return
    found = evolved(space, [first], over, loss, generator, 12, 4, lambda done, count: None)
    assert [rise for rise, _ in found] == sorted(losses.values())
    assert first in losses
    assert all(over(one) <= 0 and len(one.gone) <= space.most_gone for _, one in found)


def test_some_widths_tell_of_those_between_them() -> None:
    model = TorchModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)), IMAGE)
    space = Space(model, SupernetParams(round_to=4), on_digits(Path()), is_sorted=True)
    (group,) = space.groups.values()
    looked: list[Subnetwork] = []

    def loss(one: Subnetwork) -> float:
        looked.append(one)
        return 1.0 - one.kept[group.name] / group.whole

    told: list[tuple[int, int]] = []
    found = measured(space, loss, lambda done, count: told.append((done, count)))
    assert len(group.widths) > 40
    assert len(looked) == 7
    assert told[-1] == (6, 6)
    assert found.widths[group.name] == {
        width: pytest.approx(1 - width / group.whole) for width in space.widths(group.name)
    }


def test_steps_have_subnetworks_of_their_own_and_the_same_after_a_pause() -> None:
    space = space_of(made("residual"))
    sampling, resumed = Sampling(space, 2, 7), Sampling(space, 2, 7)
    seen: list[Sequence[Subnetwork]] = []
    for step in range(6):
        seen.append(sampling.subnetworks())
        sampling.after_step(space.model.body, StepInfo(step, 10, 0))
    resumed.before_epoch(space.model.body, StepInfo(4, 10, 0))
    assert resumed.subnetworks() == seen[4] != seen[5]
    assert {len(step) for step in seen} == {3}
    assert all(step[0].widths == tuple((name, space.widths(name)[0]) for name in space.groups) for step in seen)


def test_gradients_of_a_step_are_the_mean_over_its_networks() -> None:
    space, run = space_of(made("residual")), on_digits(Path())
    assert run.data is not None
    network, compare = space.model.body.train(), lambda found, wanted, batch: (found - wanted).square().mean()
    sampling = Sampling(space, 1, 0)
    objective = lambda network, batch: first_output(network, batch).square().mean()  # noqa: E731
    batch = next(tensor_batches(run.data.split("train"), IMAGE, 16))
    sandwich = Sandwich(objective, compare, SharedWeights(network, space.cut_of, space.prefix), sampling)
    loss = float(sandwich(network, batch).detach())
    taught = network(*batch.inputs).detach()
    parts = [float(taught.square().mean())]
    with torch.no_grad():
        for one in sampling.subnetworks():
            parts.append(float(compare(space.cut(one).body.train()(*batch.inputs), taught, batch)))
    assert loss == pytest.approx(np.mean(parts), rel=1e-3)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(64, 32), nn.Linear(32, 10), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.body(x.flatten(1)))
        return {"one": self.one(hidden), "two": self.two(hidden)}


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_subnetworks_learn_the_other_outputs_too(weight: float) -> None:
    heads = (TensorSpec("one", "float32", ("batch", 10)), TensorSpec("two", "float32", ("batch", 3)))
    space, run = space_of(TorchModel(TwoHeads(), replace(IMAGE, outputs=heads))), on_digits(Path())
    assert run.data is not None
    network = space.model.body.train()
    sampling = Sampling(space, 0, 0)
    still = lambda found, wanted, batch: found.sum() * 0  # noqa: E731
    objective = lambda network, batch: first_output(network, batch).sum() * 0  # noqa: E731
    batch = next(tensor_batches(run.data.split("train"), IMAGE, 16))
    loss = Sandwich(objective, still, SharedWeights(network, space.cut_of, space.prefix), sampling, weight)(
        network, batch
    )
    wanted = network(*batch.inputs)["two"].detach()
    found = space.cut(sampling.subnetworks()[0]).body(*batch.inputs)["two"].detach()
    apart = ((found - wanted).square().mean() / wanted.var(correction=0)).log1p()
    assert float(loss.detach()) == pytest.approx(weight * float(apart) / 2, rel=1e-4)


def run_stage(apply: Callable[..., StageResult], model: Model, params: Any, folder: Path) -> StageResult:
    return apply(model, params, on_digits(folder))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchModel, StageResult]:
    from support.digit_runs import digits_model

    model = digits_model("digits-resnet")
    assert isinstance(model, TorchModel)
    params = SupernetParams(epochs=2, learning_rate=0.02, batch_size=64)
    return model, run_stage(supernet.apply, model, params, tmp_path_factory.mktemp("supernet"))


def test_a_training_that_makes_subnetworks_worse_says_so(tmp_path: Path) -> None:
    from support.digit_runs import Heard, digits_model

    model, heard = digits_model("digits-resnet"), Heard()
    run = replace(context(tmp_path, digits_data(), heard), task="classification")
    result = supernet.apply(model, SupernetParams(epochs=1, learning_rate=2.0, batch_size=64), run)
    half = result.facts["half"]
    assert half["loss_after"] is None or half["loss_after"] >= half["loss_before"]
    assert any("subnetworks became no better" in note for note in heard.notes)


def accuracy(model: TorchModel) -> float:
    split = digits_data().split("validation")
    with torch.no_grad():
        right = [
            (model.body(*batch.inputs).argmax(1) == batch.labels).float() for batch in tensor_batches(split, IMAGE, 64)
        ]
    return float(torch.cat(right).mean())


def after_supernet(result: StageResult) -> TorchModel:
    assert isinstance(result.model, TorchModel)
    return replace(result.model, history=(StageRecord("supernet", "search.supernet", {}, 0.0, {}),))


def test_subnetworks_of_a_trained_supernet_are_better_than_those_of_the_network(
    trained: tuple[TorchModel, StageResult], tmp_path: Path
) -> None:
    model, result = trained
    assert result.facts["half"]["loss_after"] < result.facts["half"]["loss_before"]
    params = ArchitectureParams.model_validate(
        {"at_most": {"macs": 0.15, "parameters": 0.4}, "evaluations": 12, "population": 4}
    )
    found = run_stage(architecture.apply, after_supernet(result), params, tmp_path)
    plain = run_stage(architecture.apply, model, params, tmp_path)
    for each in (found, plain):
        assert each.facts["macs"]["after"] <= 0.15 * each.facts["macs"]["before"]
        assert each.facts["reached"]["parameters"] <= 0.4
        assert isinstance(each.model, TorchModel)
    assert found.facts["method"] == "evolution"
    assert plain.facts["method"] == "sensitivity"
    assert isinstance(found.model, TorchModel)
    assert isinstance(plain.model, TorchModel)
    assert accuracy(found.model) > accuracy(plain.model)
    # What it says of others is what they are.
    losses = [one["loss"] for one in found.facts["others"]]
    assert losses == sorted(losses)
    assert found.facts["looked_at"] == 12


def test_a_pinned_architecture_is_the_network_that_was_found(
    trained: tuple[TorchModel, StageResult], tmp_path: Path
) -> None:
    model = after_supernet(trained[1])
    params = ArchitectureParams.model_validate({"at_most": {"macs": 0.5}, "evaluations": 4, "population": 2})
    found = run_stage(architecture.apply, model, params, tmp_path)
    assert found.pinned is not None
    given = {key: value for key, value in found.pinned.items() if key != "use"}
    again = run_stage(architecture.apply, model, ArchitectureParams.model_validate(given), tmp_path)
    assert isinstance(found.model, TorchModel)
    assert isinstance(again.model, TorchModel)
    one, other = found.model.body.state_dict(), again.model.body.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_limit_on_latency_is_held_by_what_is_measured(
    trained: tuple[TorchModel, StageResult], tmp_path: Path
) -> None:
    """The clock is half as fast as tables of single cuts make believe."""
    model = after_supernet(trained[1])
    whole = sum(value.numel() for value in model.body.parameters())
    asked: list[int] = []

    def clock(models: Sequence[Model]) -> tuple[float, ...]:
        sizes = [
            sum(value.numel() for value in each.body.parameters()) / whole
            for each in models
            if isinstance(each, TorchModel)
        ]
        asked.append(len(sizes))
        return tuple(size**0.5 for size in sizes)

    params = ArchitectureParams.model_validate({"at_most": {"latency": 0.7}, "evaluations": 6, "population": 2})
    run = replace(on_digits(tmp_path), latency_ms=clock)
    found = architecture.apply(model, params, run)
    assert isinstance(found.model, TorchModel)
    size = sum(value.numel() for value in found.model.body.parameters()) / whole
    assert found.facts["reached"]["latency"] == pytest.approx(size**0.5)
    assert size**0.5 <= 0.7


@pytest.mark.parametrize("name", TOKENS)
def test_a_transformer_can_have_fewer_channels_heads_tokens_and_blocks(name: str) -> None:
    space = space_of(made(name), TOKENS[name])
    kinds = space.by_kind()
    assert set(kinds) == {"channels", "heads", "tokens"}
    blocks = len(kinds["heads"])
    assert blocks == len(space.blocks) == {"transformer": 4, "torch's own": 3}[name]
    assert all(widths == [1, 2, 3, 4] for widths in kinds["heads"].values())
    assert list(kinds["tokens"]) == [f"blocks.{place}" for place in range(blocks - 1)]
    assert {f"blocks.{place}" for place in range(blocks)} <= {
        each.rpartition(".")[0].removesuffix(".mlp") for each in kinds["channels"]
    }
    # Without a block nothing goes behind it, and one that sees half of the tokens is half as much work.
    one = space.whole.with_width("tokens behind blocks.0", 60)
    assert space.macs(replace(one, gone=("blocks.0",))) == space.macs(replace(space.whole, gone=("blocks.0",)))
    later = space.macs(space.whole) - space.macs(replace(space.whole, gone=("blocks.1",)))
    assert space.macs(one) - space.macs(replace(one, gone=("blocks.1",))) == pytest.approx(11 / 17 * later)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_spelled_out_is_that_subnetwork(space: Space, seed: int) -> None:
    one = space.random(np.random.default_rng(seed))
    assert space.named(Architecture.model_validate(space.spelled(one))) == one


@pytest.mark.parametrize("name", TOKENS)
def test_a_searched_transformer_is_pinned_and_its_file_computes_the_same(name: str, tmp_path: Path) -> None:
    model = made(name)
    params = ArchitectureParams.model_validate(
        {
            "at_most": {"macs": 0.85},
            "tokens": TOKENS[name],
            "min_keep": 0.75,
            "round_to": 32,
            "blocks": 0,
            "samples": 64,
        }
    )
    found = run_stage(architecture.apply, model, params, tmp_path)
    assert found.facts["macs"]["after"] <= 0.85 * found.facts["macs"]["before"]
    assert found.pinned is not None
    assert found.pinned["architecture"]["tokens"]
    given = {key: value for key, value in found.pinned.items() if key != "use"}
    again = run_stage(architecture.apply, model, ArchitectureParams.model_validate(given), tmp_path)
    assert isinstance(found.model, TorchModel)
    assert isinstance(again.model, TorchModel)
    inputs = example_inputs(IMAGE, 5)
    with torch.no_grad():
        assert torch.equal(again.model.body(*inputs), found.model.body(*inputs))
    assert parity(found.model, lower(found.model), {"input": inputs[0].numpy()})["output"] < 1e-4


def method_of(space: Space) -> Any:
    """How its tokens go."""
    if "tokens" not in space.by_kind():
        return "all"
    smallest = space.cut(space.whole.with_width("tokens behind blocks.0", 60)).body
    assert isinstance(smallest, FewerTokens)
    return smallest.method


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_subnetwork_has_subnetworks_of_its_own(space: Space, seed: int) -> None:
    """Tokens that go already may become fewer still; names stay those of the first network."""
    from compressctl.techniques.prune._costs import cost, layers

    generator = np.random.default_rng(seed)
    found = space.cut(replace(space.random(generator), widths=space.uniform(0.8).widths))
    params = SupernetParams(tokens=method_of(space), blocks=1)
    nested = Space(found, params, on_digits(Path()), is_sorted=True, nested=True)
    inputs = example_inputs(space.model.signature)
    with torch.no_grad():
        assert torch.equal(nested.entire.body.eval()(*inputs), found.body.eval()(*inputs))
    for one in (nested.whole, nested.random(generator)):
        measured = layers(nested.cut(one).body.eval(), inputs)
        assert nested.macs(one) == cost("macs", measured, (), {})
        assert nested.named(Architecture.model_validate(nested.spelled(one))) == one


def test_tokens_that_go_already_become_fewer_still_but_train_no_supernet(tmp_path: Path) -> None:
    model = made("transformer")
    of = {"tokens": "prune", "samples": 64, "blocks": 0, "min_keep": 0.75}
    once = run_stage(
        architecture.apply, model, ArchitectureParams.model_validate({"at_most": {"macs": 0.85}, **of}), tmp_path
    )
    assert isinstance(once.model, TorchModel)
    twice = run_stage(
        architecture.apply, once.model, ArchitectureParams.model_validate({"at_most": {"macs": 0.8}, **of}), tmp_path
    )
    assert isinstance(twice.model, TorchModel)
    assert twice.facts["macs"]["before"] == once.facts["macs"]["after"]
    assert twice.facts["macs"]["after"] <= 0.8 * twice.facts["macs"]["before"]
    tokens = twice.facts["architecture"].get("tokens", {})
    assert all(share < once.facts["architecture"]["tokens"].get(block, 100) for block, share in tokens.items())
    assert sum(isinstance(module, FewerTokens) for module in twice.model.body.modules()) == 1
    inputs = example_inputs(IMAGE, 5)
    assert parity(twice.model, lower(twice.model), {"input": inputs[0].numpy()})["output"] < 1e-4
    with pytest.raises(NothingToCompressError, match="see fewer tokens already"):
        run_stage(supernet.apply, once.model, SupernetParams(tokens="prune"), tmp_path)
    with pytest.raises(NothingToCompressError, match="see fewer tokens already"):
        run_stage(
            architecture.apply, once.model, ArchitectureParams.model_validate({"at_most": {"macs": 0.8}, **of, "tokens": "merge"}), tmp_path
        )  # fmt: skip


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"architecture": {"heads": {"stem.conv": 1}}}, UsageError, "names stem.conv, whose heads cannot be fewer"),
        ({"architecture": {"tokens": {"block1": 60}}}, UsageError, "names block1, whose tokens cannot be fewer"),
        ({"at_most": {"macs": 0.5}, "tokens": "merge"}, NothingToCompressError, "no blocks of a transformer"),
        ({"at_most": {"macs": 0.001}}, StageError, "no subnetwork keeps the limits: macs"),
        ({"architecture": {"channels": {"nowhere": 8}}}, UsageError, "names nowhere, whose channels cannot be fewer"),
        ({"architecture": {"channels": {"stem.conv": 7}}}, UsageError, "cannot have 7 channels"),
        ({"architecture": {"without": ["stem"]}}, UsageError, "stem, which is no residual block that can go"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    params: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        run_stage(architecture.apply, made("residual"), ArchitectureParams.model_validate(params), tmp_path)


def test_a_network_without_subnetworks_says_so(tmp_path: Path) -> None:
    model = TorchModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), IMAGE)
    with pytest.raises(NothingToCompressError, match="has no subnetworks"):
        run_stage(supernet.apply, model, SupernetParams(), tmp_path)
