"""Early exits, gated blocks and fewer tokens: files compute what networks do, thresholds are the best there are, and pinned stages give the same again."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.digit_runs import context, digits_data
from torch import Tensor, nn
from torch.nn import functional

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.errors import NothingToCompressError, StageError, UsageError
from compressctl.core.events import Events
from compressctl.core.model import Signature, TensorSpec, TorchModel
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.graph.branches import decisions
from compressctl.graph.lower import lower, parity
from compressctl.sources.modules.early_exits import EarlyExits
from compressctl.sources.modules.exit_heads import ConvHead
from compressctl.sources.modules.fewer_tokens import FewerTokens, _merged, _pruned
from compressctl.sources.modules.gated_block import GatedBlock
from compressctl.sources.modules.pass_through import PassThrough
from compressctl.sources.networks import digits_depthwise, digits_resnet
from compressctl.sources.structure import describe, rebuild
from compressctl.techniques.dynamic import blocks, exits, tokens
from compressctl.techniques.dynamic._blocks import is_causal
from compressctl.techniques.dynamic._heads import head_macs, width_of
from compressctl.techniques.dynamic._places import channel_axis, places, spread
from compressctl.techniques.dynamic._thresholds import Answers, best_within, cheapest, front, temperature
from compressctl.techniques.dynamic.blocks import _without_settled
from compressctl.techniques.dynamic.params import BlocksParams, ExitsParams, TokensParams

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)
TEXT = Signature(
    (TensorSpec("ids", "int64", ("batch", "tokens")), TensorSpec("attention_mask", "int64", ("batch", "tokens"))),
    (TensorSpec("output", "float32", ("batch", 8)),),
)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            part.reshape(*part.shape[:2], self.num_heads, -1).transpose(1, 2)
            for part in (self.query(x), self.key(x), self.value(x))
        )
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(found.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.norm = Attention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), mask)
        found: Tensor = x + self.mlp(x)
        return found


class Reader(nn.Module):
    """Tokens of any number, with a mask; the mean of those that count, or the first."""

    def __init__(self, width: int = 8, heads: int = 2, layers: int = 4, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.table = nn.Embedding(64, width)
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.table(ids)
        mask = (attention_mask[:, None, None, :] == 0).to(x.dtype) * -1e4
        for layer in self.layers:
            x = layer(x, mask)
        if self.first:
            return x[:, 0]
        counts = attention_mask[..., None].to(x.dtype)
        return (x * counts).sum(1) / counts.sum(1)  # type: ignore[no-any-return]


class Writer(Reader):
    """What comes next behind each token, from those before it alone; or, looking at all, another word for each."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.table(ids)
        mask = (attention_mask[:, None, None, :] == 0).to(x.dtype) * -1e4
        if self.causal:
            later = torch.ones(ids.shape[1], ids.shape[1], dtype=x.dtype).triu(1)
            mask = mask - 1e4 * later
        for layer in self.layers:
            x = layer(x, mask)
        return x @ self.table.weight.T


def image_model(make: Any = digits_resnet) -> TorchModel:
    torch.manual_seed(0)
    return TorchModel(make().eval(), IMAGE)


def text_model(**how: Any) -> TorchModel:
    torch.manual_seed(0)
    return TorchModel(Reader(**how).eval(), TEXT)


def on_digits(folder: Path) -> RunContext:
    return replace(context(folder, digits_data()), task="classification")


def texts(samples: int, length: int, real: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(samples, length, dtype=torch.long)
    if real is not None:
        mask[:, real:] = 0
    return torch.randint(0, 16, (samples, length), generator=generator), mask


def nothing(folder: Path) -> RunContext:
    return replace(on_digits(folder), data=None)


# Thresholds


@st.composite
def answers(draw: st.DrawFn, most_exits: int = 2) -> Answers:
    count, exits_ = draw(st.integers(2, 14)), draw(st.integers(1, most_exits))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    sure = np.round(rng.random((count, exits_)), 1)  # some are equally sure
    right = (rng.random((count, exits_ + 1)) < 0.7).astype(float)
    return Answers(sure, right, np.sort(rng.random(exits_ + 1)) + 0.1)


def every(found: Answers) -> list[tuple[float, float]]:
    """Cost and right answers of all thresholds that make a difference."""
    levels = np.concatenate([np.arange(-0.05, 1.0, 0.1), [2.0]])
    made = []
    for thresholds in itertools.product(levels, repeat=found.sure.shape[1]):
        taken = found.taken(thresholds)
        made.append((found.cost[taken].mean(), found.right[np.arange(len(taken)), taken].mean()))
    return made


@settings(deadline=None, max_examples=60)
@given(answers(most_exits=1))
def test_the_front_of_one_exit_is_the_hull_of_all_thresholds(found: Answers) -> None:
    points = front(found)
    known = every(found)
    for weight in (0.05, 0.3, 1.0, 3.0, 30.0):
        best = min(cost / found.cost[-1] - weight * right for cost, right in known)
        mine = min(point.cost / found.cost[-1] - weight * point.right for point in points)
        assert mine <= best + 0.05 * weight + 1e-9


@settings(deadline=None, max_examples=60)
@given(answers())
def test_points_say_what_their_thresholds_give(found: Answers) -> None:
    points = front(found)
    assert points[0].thresholds == (2.0,) * found.sure.shape[1]
    for point in points:
        taken = found.taken(point.thresholds)
        assert point.cost == pytest.approx(found.cost[taken].mean())
        assert point.right == pytest.approx(found.right[np.arange(len(taken)), taken].mean())
        assert sum(point.shares) == pytest.approx(1)
    costs = [point.cost for point in points]
    assert costs == sorted(costs, reverse=True)
    least = points[0].right - 0.1
    assert cheapest(points, least).right >= least
    safe = cheapest(points, least, 1.0)
    assert safe is points[0] or safe.right - safe.error >= least
    assert safe.cost >= cheapest(points, least).cost
    within = best_within(points, 0.8 * points[0].cost)
    assert within is None or within.cost <= 0.8 * points[0].cost


def test_a_temperature_makes_scores_as_sure_as_they_are_right() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4000, 5)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in chances])
    assert temperature(3 * logits, labels) == pytest.approx(3, rel=0.1)


# Exits


def test_exits_answer_and_their_file_does_the_same(tmp_path: Path) -> None:
    run = on_digits(tmp_path)
    result = exits.apply(image_model(), ExitsParams(epochs=8, learning_rate=0.05, cost="macs", drop=2), run)
    network = result.model.body
    assert isinstance(network, EarlyExits)
    assert 0 < result.facts["cost"] < 1
    assert result.facts["right"]["early"] >= result.facts["right"]["whole"] - 2
    proto = lower(result.model)
    assert len(decisions(proto.body.graph)) == len(network.places)
    assert run.data is not None
    inputs = next(iter(run.data.split("test").batches(64))).inputs
    assert parity(result.model, proto, inputs)["output"] < 1e-4


class Encoder(nn.Module):
    def __init__(self, *, unit: bool) -> None:
        super().__init__()
        self.network, self.unit = digits_resnet(), unit

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x)
        return functional.normalize(found, dim=-1) if self.unit else found


@pytest.mark.parametrize("unit", [False, True])
def test_an_encoder_leaves_where_its_vector_is_expected_to_be_near(unit: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TorchModel(Encoder(unit=unit).eval(), IMAGE)
    run = replace(on_digits(tmp_path), task="embedding", original=lambda: model)
    params = ExitsParams(
        epochs=4, learning_rate=0.02, cost="macs", average=0.8, teacher="original", teacher_weight=1, label_weight=0
    )
    result = exits.apply(model, params, run)
    network = result.model.body
    assert isinstance(network, EarlyExits)
    assert (network.confidence, network.probabilities) == ("learned", unit)
    assert result.facts["cost"] <= 0.8
    assert result.facts["right"]["whole"] == pytest.approx(100)
    assert run.data is not None
    batch = next(iter(run.data.split("validation").batches(256))).inputs
    images = torch.from_numpy(np.asarray(batch["input"]))
    with torch.no_grad():
        near = functional.cosine_similarity(network(images), network.network(images), dim=-1)
        lengths = network(images).norm(dim=-1)
    assert 100 * float(near.mean()) == pytest.approx(result.facts["right"]["early"], abs=3)
    assert not unit or torch.allclose(lengths, torch.ones(len(images)), atol=1e-4)
    proto = lower(result.model)
    assert len(decisions(proto.body.graph)) == len(network.places)
    assert parity(result.model, proto, batch)["output"] < 1e-4
    again = rebuild(Encoder(unit=unit), describe(network, Encoder(unit=unit)), network.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(images), network(images))


def test_pinned_exits_are_the_ones_that_were_found(tmp_path: Path) -> None:
    params = ExitsParams(epochs=2, learning_rate=0.05, cost="macs", average=0.8)
    first = exits.apply(image_model(), params, on_digits(tmp_path))
    assert first.pinned is not None
    again = exits.apply(
        image_model(),
        ExitsParams(**{key: value for key, value in first.pinned.items() if key != "use"}),
        on_digits(tmp_path),
    )
    inputs = torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        # Temperatures are part of the weights where thresholds are chosen, and of the thresholds' meaning.
        assert torch.equal(again.model.body(inputs), first.model.body(inputs))


@pytest.mark.parametrize("technique", ["exits", "blocks"])
def test_the_same_seed_gives_the_same_network(technique: str, tmp_path: Path) -> None:
    def made() -> dict[str, Tensor]:
        run = on_digits(tmp_path)
        if technique == "exits":
            return exits.apply(image_model(), ExitsParams(epochs=1, thresholds=(0.9, 0.9)), run).model.body.state_dict()
        return blocks.apply(image_model(), BlocksParams(epochs=1), run).model.body.state_dict()

    torch.manual_seed(1)
    first = made()
    torch.manual_seed(2)
    second = made()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("thresholds", [(2.0, 0.9), (2.0, 2.0)])
def test_exits_at_which_no_sample_may_leave_are_left_out(thresholds: tuple[float, float], tmp_path: Path) -> None:
    run, told = on_digits(tmp_path), list[str]()
    run = replace(run, events=Events(lambda event: told.append(str(event.fields.get("message", "")))))
    model = image_model()
    both = exits.apply(image_model(), ExitsParams(epochs=1, thresholds=(0.95, 0.9)), run).model.body
    assert isinstance(both, EarlyExits)
    made = exits.apply(model, ExitsParams(epochs=1, thresholds=thresholds), run).model.body
    assert any("no sample may leave" in line for line in told)
    x = torch.randn(32, 1, 8, 8)
    with torch.no_grad():
        both.thresholds.copy_(torch.tensor(thresholds))
        assert torch.equal(made(x), both(x))
    if thresholds == (2.0, 2.0):
        assert not isinstance(made, EarlyExits)
        return
    assert isinstance(made, EarlyExits)
    assert made.places == both.places[1:]
    again = rebuild(image_model().body, describe(made, image_model().body), made.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(x), made(x))


def test_what_trains_a_network_with_exits_trains_its_heads(tmp_path: Path) -> None:
    network = exits.apply(
        image_model(), ExitsParams(epochs=1, thresholds=(0.9, 0.9)), on_digits(tmp_path)
    ).model.body.train()
    assert isinstance(network, EarlyExits)
    network(torch.randn(64, 1, 8, 8)).square().mean().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in network.heads.parameters())


def test_heads_alone_leave_the_network_as_it_is(tmp_path: Path) -> None:
    model = image_model()
    result = exits.apply(model, ExitsParams(epochs=1, learn="heads", thresholds=(0.9, 0.9)), on_digits(tmp_path))
    before, after = model.body.state_dict(), result.model.body.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.requires_grad for parameter in result.model.body.parameters())


def test_places_are_where_everything_goes_through() -> None:
    found = places(image_model())
    shares = [place.share for place in found]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1
    assert {place.name for place in found} >= {"block1", "block2"}
    assert not any(
        ".conv" in place.name for place in found
    )  # what runs past a block's inside is still needed behind it
    assert [place.share for place in spread(found, 2)] == sorted(place.share for place in spread(found, 2))
    assert places(image_model(digits_depthwise))


def test_a_place_may_be_called_by_any_module_that_gives_it(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 10)
    )
    model = TorchModel(network.eval(), IMAGE)
    assert [(place.name, place.also) for place in places(model)][:1] == [("0", ("0.1",))]
    made = exits.apply(model, ExitsParams(at=("0.1",), epochs=1, thresholds=(0.9,)), on_digits(tmp_path)).model.body
    assert isinstance(made, EarlyExits)
    assert made.places == ["0"]


@pytest.mark.parametrize(("size", "stride"), [((8, 8), 1), ((32, 32), 4), ((7, 9), 2), ((1, 1), 1)])
def test_the_arithmetic_of_a_head_is_counted(size: tuple[int, int], stride: int) -> None:
    head = ConvHead(3, 10, 16, stride).eval()
    spent = 0

    def count(layer: nn.Conv2d, _: object, made: Tensor) -> None:
        nonlocal spent
        spent += made[0].numel() * layer.weight[0].numel()

    for layer in (head.first, head.second, head.third):
        layer.register_forward_hook(count)
    head(torch.zeros(2, 3, *size))
    assert spent == ConvHead.macs(3, size, 16, stride)


def test_heads_are_as_wide_as_a_twentieth_of_the_network_allows() -> None:
    narrow = spread(places(image_model()), 2)
    assert width_of(narrow, "auto") == 8  # as few as there are kernels for
    chosen = [replace(place, whole=20 * place.whole) for place in narrow]
    width = width_of(chosen, "auto")
    assert all(head_macs(place, width) <= place.whole / 20 for place in chosen)
    assert any(head_macs(place, width + 8) > place.whole / 20 for place in chosen)
    assert width_of(chosen, 40) == 40


def test_places_of_a_transformer_are_its_blocks() -> None:
    assert [place.name for place in places(text_model())] == ["layers.0", "layers.1", "layers.2"]
    assert all(place.axis == -1 for place in places(text_model()))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (ExitsParams(at=("block9",), epochs=1), "did you mean block"),
        (ExitsParams(at=("block2", "block1"), epochs=1), "run in the order"),
        (ExitsParams(average=0.01, epochs=1, cost="macs"), "at least"),
    ],
)
def test_exits_that_cannot_be_are_named(params: ExitsParams, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        exits.apply(image_model(), params, on_digits(tmp_path))
    assert words in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("params", "given", "words"),
    [
        (ExitsParams, {"thresholds": [1.5, 0.2]}, "between 0 and 1"),
        (BlocksParams, {"average": 1}, "less than 1"),
        (TokensParams, {"at": []}, "at names no block"),
        (TokensParams, {"keep": 1}, "keeps every token"),
        (TokensParams, {"keep": [1, 1.0]}, "keeps every token"),
        (TokensParams, {"method": "merge", "attended": "class"}, "looks at no attention"),
    ],
)
def test_params_that_would_do_nothing_are_refused(params: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        params.model_validate(given)


@pytest.mark.parametrize(
    ("params", "given"),
    [
        (ExitsParams, {"at": ["block1", "block2", "block3"]}),
        (ExitsParams, {"average": 0.7}),
        (ExitsParams, {"exits": 3, "thresholds": [0.5, 2, -1], "temperatures": [1, 2, 3]}),
        (TokensParams, {"latency": 0.7}),
        (TokensParams, {"method": "merge", "at": "every"}),
        (BlocksParams, {"average": 0.5}),
    ],
)
def test_a_resolved_recipe_says_every_default_and_is_valid(params: Any, given: dict[str, Any]) -> None:
    made = params.model_validate(given)
    assert params.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize("task", ["regression", "ranking"])
def test_exits_are_for_classifiers_and_encoders(task: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="classifiers and encoders"):
        exits.apply(image_model(), ExitsParams(epochs=1), replace(on_digits(tmp_path), task=task))


@pytest.mark.parametrize(
    "given_",
    [
        {"at": ["a"], "exits": 3},
        {"at": ["a", "a"]},
        {"drop": 1, "average": 0.5},
        {"thresholds": [0.5]},
    ],
)
def test_params_that_contradict_each_other_are_refused(given_: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at|drop|thresholds"):
        ExitsParams(**given_)


# Blocks


def test_gates_keep_the_cost_and_their_file_does_the_same(tmp_path: Path) -> None:
    run = on_digits(tmp_path)
    model = image_model()
    result = blocks.apply(model, BlocksParams(epochs=6, learning_rate=0.02, average=0.7), run)
    assert result.facts["average"] <= 0.7 + 1e-6
    gates = [name for name, module in result.model.body.named_modules() if isinstance(module, GatedBlock)]
    assert gates == [name for name in result.facts["gates"] if name not in result.facts["settled"]]
    proto = lower(result.model)
    assert len(decisions(proto.body.graph)) == len(gates)
    assert {one.of for one in decisions(proto.body.graph)} == set(gates)
    assert run.data is not None
    inputs = next(iter(run.data.split("test").batches(64))).inputs
    assert parity(result.model, proto, inputs)["output"] < 1e-4


def test_a_pinned_threshold_is_taken_and_none_is_chosen(tmp_path: Path) -> None:
    run = on_digits(tmp_path)
    first = blocks.apply(image_model(), BlocksParams(epochs=1, average=0.75), run)
    assert first.pinned is not None
    given = {key: value for key, value in first.pinned.items() if key != "use"}
    again = blocks.apply(image_model(), BlocksParams(**given), run)
    assert (again.facts["threshold"], again.facts["opened"]) == (first.facts["threshold"], first.facts["opened"])
    other = blocks.apply(image_model(), BlocksParams(**{**given, "threshold": given["threshold"] + 1.5}), run)
    assert other.facts["threshold"] == pytest.approx(first.facts["threshold"] + 1.5, abs=1e-4)


def test_gates_that_say_one_thing_of_all_samples_are_left_out() -> None:
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(3)]
    network = nn.Sequential(*(GatedBlock.around(part, features=3) for part in parts)).eval()
    x = torch.randn(6, 3, 5, 5)
    with torch.no_grad():
        for gated, threshold in zip(network, (-100.0, 100.0, 2.0), strict=True):
            gated.threshold.fill_(threshold)  # type: ignore[union-attr]
        wanted = network(x)
        made, sure = _without_settled(network, {"0": 1.0, "1": 0.0, "2": 0.5})
        assert torch.equal(made(x), wanted)
    assert sure == {"0": "always", "1": "never"}
    assert [type(part) for part in made.children()] == [nn.Sequential, PassThrough, GatedBlock]


def test_an_open_gate_is_the_block_and_a_shut_one_its_input() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    gated = GatedBlock.around(block, features=3).eval()
    x = torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        gated.threshold.fill_(-100)
        assert torch.equal(gated(x), block(x))
        gated.threshold.fill_(100)
        assert torch.equal(gated(x), x)


def test_a_cost_below_that_of_no_block_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all its"):
        blocks.apply(image_model(), BlocksParams(average=0.01, epochs=1), on_digits(tmp_path))


def test_a_network_without_residual_blocks_has_none_to_skip(tmp_path: Path) -> None:
    plain = TorchModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), IMAGE)
    with pytest.raises(NothingToCompressError):
        blocks.apply(plain, BlocksParams(epochs=1), on_digits(tmp_path))


# Tokens


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["prune", "merge"]),
    st.integers(1, 3),
    st.integers(4, 20),
    st.floats(0.55, 0.95),
    st.booleans(),
    st.integers(0, 9999),
)
def test_every_token_is_part_of_one_that_is_the_mean_of_its_parts(
    method: str, samples: int, count: int, share: float, first: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, count, 5, generator=generator)
    weight = torch.ones(samples, count)
    weight[-1, count // 2 + 1 :] = 0
    kept = max(2, count - int(count * (1 - share)))
    if method == "prune":
        made, new, position, part = _pruned(
            x, weight, torch.rand(samples, count, generator=generator) - (weight == 0).float(), kept, first
        )
    else:
        made, new, position, part = _merged(x, weight, functional.normalize(x, dim=-1), kept, first)
    assert made.shape == (samples, kept, 5)
    assert torch.allclose(new.sum(1), weight.sum(1))
    for sample, slot in itertools.product(range(samples), range(kept)):
        parts = part[sample] == slot
        total = weight[sample][parts].sum()
        assert torch.isclose(total, new[sample, slot])
        if total > 0:
            mean = (x[sample][parts] * weight[sample][parts][:, None]).sum(0) / total
            assert torch.allclose(made[sample, slot], mean, atol=1e-4)
            assert weight[sample, position[sample, slot]] > 0
    if first:
        assert torch.equal(made[:, 0], x[:, 0])
        assert (part[:, 1:] > 0).all()


@pytest.mark.parametrize("method", ["prune", "merge"])
@pytest.mark.parametrize("first", [False, True])
def test_a_file_with_fewer_tokens_computes_what_the_network_does(method: Any, first: bool, tmp_path: Path) -> None:
    """At other lengths than the one that it was traced with, and where tokens do not count."""
    model = text_model(first=first)
    result = tokens.apply(model, TokensParams(method=method, keep=0.6), nothing(tmp_path))
    assert isinstance(result.model.body, FewerTokens)
    assert result.facts["attended"] == (None if method == "merge" else "class" if first else "all")
    proto = lower(result.model)
    for length, real in ((12, None), (7, None), (19, 11)):
        ids, mask = texts(3, length, real)
        assert parity(result.model, proto, {"ids": ids.numpy(), "attention_mask": mask.numpy()})["output"] < 1e-4


@pytest.mark.parametrize("method", ["prune", "merge"])
def test_lengths_at_which_one_token_goes_are_none_that_files_are_fixed_to(method: Any, tmp_path: Path) -> None:
    """Behind three blocks in a row: of twelve tokens, the usual length to trace with, the last would lose one."""
    result = tokens.apply(text_model(), TokensParams(method=method, keep=0.7, at="every"), nothing(tmp_path))
    proto = lower(result.model)
    for length in (5, 9, 12, 17, 40):
        # No token twice: which of two equal ones goes is nobody's to say.
        ids, mask = (
            torch.stack([torch.randperm(64)[:length] for _ in range(2)]),
            torch.ones(2, length, dtype=torch.long),
        )
        assert parity(result.model, proto, {"ids": ids.numpy(), "attention_mask": mask.numpy()})["output"] < 1e-4


@pytest.mark.parametrize("method", ["prune", "merge"])
def test_tokens_that_do_not_count_change_nothing_that_is_kept(method: Any, tmp_path: Path) -> None:
    """What pads hold does not matter."""
    result = tokens.apply(text_model(), TokensParams(method=method, keep=0.7), nothing(tmp_path))
    ids, mask = texts(2, 16, 9)
    other = ids.clone()
    other[:, 9:] = 3
    with torch.no_grad():
        assert torch.allclose(result.model.body(ids, mask), result.model.body(other, mask), atol=1e-5)


def test_all_tokens_kept_is_the_network_itself(tmp_path: Path) -> None:
    model = text_model()
    result = tokens.apply(model, TokensParams(keep=0.9999), nothing(tmp_path))
    ids, mask = texts(2, 11)
    with torch.no_grad():
        assert torch.allclose(result.model.body(ids, mask), model.body(ids, mask), atol=1e-6)


def test_a_schedule_keeps_the_latency_that_is_asked_for(tmp_path: Path) -> None:
    """By a clock that counts tokens; the schedule that is kept is the one that is nearest to the network."""

    def clock(models: Any) -> tuple[float, ...]:
        return tuple(_tokens_seen(model) for model in models)

    run = replace(nothing(tmp_path), latency_ms=clock)
    model = text_model(layers=6)
    result = tokens.apply(model, TokensParams(latency=0.7), run)
    assert _tokens_seen(result.model) <= 0.7 * _tokens_seen(model)
    assert result.facts["latency"]["reached"] > 0.55
    assert result.pinned is not None
    again = tokens.apply(model, TokensParams(**{k: v for k, v in result.pinned.items() if k != "use"}), run)
    assert _tokens_seen(again.model) == _tokens_seen(result.model)


def _tokens_seen(model: Any) -> float:
    body = model.body
    seen: list[int] = []
    handles = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        for module in body.modules()
        if isinstance(module, Block)
    ]
    with torch.no_grad():
        body(*texts(1, 40))
    for handle in handles:
        handle.remove()
    return float(sum(seen))


def test_a_network_without_blocks_of_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NothingToCompressError, match="blocks"):
        tokens.apply(image_model(), TokensParams(), nothing(tmp_path))


def test_blocks_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        tokens.apply(text_model(), TokensParams(at=("layers.9",)), nothing(tmp_path))
    assert "layers." in str(caught.value.hint)


@pytest.mark.parametrize("causal", [True, False])
def test_what_would_tell_earlier_tokens_of_later_ones_is_refused(causal: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    signature = replace(TEXT, outputs=(TensorSpec("output", "float32", ("batch", "tokens", 64)),))
    model = TorchModel(Writer(causal=causal).eval(), signature)
    assert is_causal(model) == causal
    assert not is_causal(text_model())
    assert not is_causal(image_model())
    if causal:
        with pytest.raises(UsageError, match="which tokens stay would depend on later ones"):
            tokens.apply(model, TokensParams(), nothing(tmp_path))
        with pytest.raises(UsageError, match="tell earlier tokens of later ones"):
            blocks.apply(model, BlocksParams(epochs=1), nothing(tmp_path))
    else:
        assert tokens.apply(model, TokensParams(), nothing(tmp_path)).facts["tokens_kept"]


class RootMeanSquareNorm(nn.Module):
    """As networks of transformers have one of their own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return found


@pytest.mark.parametrize(
    ("norm", "axis"),
    [(nn.LayerNorm(16), -1), (nn.RMSNorm(16), -1), (RootMeanSquareNorm(16), -1), (nn.BatchNorm1d(16), 1)],
)
def test_channels_of_tokens_are_told_from_those_of_maps(norm: nn.Module, axis: int) -> None:
    assert channel_axis(nn.Sequential(norm), (2, 12, 16)) == axis


def test_a_latency_that_no_schedule_keeps_is_an_error(tmp_path: Path) -> None:
    run = replace(nothing(tmp_path), latency_ms=lambda models: (1.0,) * len(models))
    with pytest.raises(StageError, match="no schedule"):
        tokens.apply(text_model(), TokensParams(latency=0.5), run)


# Files


@pytest.mark.parametrize("which", ["exits", "blocks", "tokens"])
def test_a_dynamic_network_is_described_and_rebuilt(which: str, tmp_path: Path) -> None:
    if which == "tokens":
        model = text_model()
        made = tokens.apply(model, TokensParams(), nothing(tmp_path)).model.body
        inputs: tuple[Tensor, ...] = texts(2, 9)
    else:
        model = image_model()
        run, inputs = on_digits(tmp_path), (torch.randn(4, 1, 8, 8),)
        result = (
            exits.apply(model, ExitsParams(epochs=1, cost="macs"), run)
            if which == "exits"
            else blocks.apply(model, BlocksParams(epochs=1), run)
        )
        made = result.model.body
    again = rebuild(model.body, describe(made, model.body), made.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(*inputs), made.eval()(*inputs))


@pytest.mark.parametrize("method", ["prune", "merge"])
@pytest.mark.parametrize("first", [False, True])
def test_openvino_computes_the_same_for_several_samples(method: Any, first: bool, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    fixed = replace(TEXT, inputs=tuple(replace(spec, shape=("batch", 16)) for spec in TEXT.inputs))
    model = replace(text_model(first=first), signature=fixed)
    result = tokens.apply(model, TokensParams(method=method, keep=0.6), nothing(tmp_path))
    onnx.save(to_onnx(lower(result.model), Target("openvino")), tmp_path / "model.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for samples in (1, 3):
        ids, mask = texts(samples, 16)
        found = compiled({"ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
        with torch.no_grad():
            np.testing.assert_allclose(found, result.model.body(ids, mask).numpy(), atol=1e-4)
