"""Which rank a layer gets: each rule alone, layers together, and the clock."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from compressctl.core.errors import UsageError
from compressctl.core.events import Events
from compressctl.layers.layer import Layer, Outline
from compressctl.techniques.factorize._global_ranks import keeping, path, state
from compressctl.techniques.factorize._layer_rules import LayerRule
from compressctl.techniques.factorize._ranks import Chooser
from compressctl.techniques.factorize._rules import choose
from compressctl.techniques.factorize._split import Option, options
from compressctl.techniques.factorize.params import RankRule
from compressctl.techniques.factorize.svd import ChannelSplit, SpatialSplit
from compressctl.techniques.factorize.tucker import tucker_split


def _linear(name: str = "fc", shape: tuple[int, int] = (40, 60), decay: float = 0.9, seed: int = 0) -> Layer:
    """Singular values that fall by `decay` each."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], shape[0])))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], shape[0])))
    weight = (left * decay ** np.arange(shape[0])) @ right.T
    return Layer(name, "Linear", Outline(name, shape), weight, np.zeros(shape[0]), (shape[1],))


def _conv(name: str = "conv") -> Layer:
    weight = np.random.default_rng(0).standard_normal((16, 12, 3, 3))
    outline = Outline(name, weight.shape, (1, 1), (1, 1, 1, 1), (1, 1))
    return Layer(name, "Conv2d", outline, weight, None, (12, 8, 8))


def _values(layer: Layer) -> np.ndarray:
    return np.linalg.svd(layer.weight, compute_uv=False)


def _rank(found: Option | str) -> int:
    assert isinstance(found, Option), found
    return found.rank[0]


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.95])
def test_energy_is_the_least_rank_that_keeps_it(energy: float) -> None:
    squares = _values(_linear()) ** 2
    wanted = next(rank for rank in range(1, 41) if squares[:rank].sum() >= energy * squares.sum())
    assert _rank(choose([ChannelSplit.of(_linear(), None)], RankRule(energy=energy), round_to=1)) == wanted


@pytest.mark.parametrize("error", [0.3, 0.15])
def test_an_error_budget_is_the_norm_of_what_is_dropped(error: float) -> None:
    found = choose([ChannelSplit.of(_linear(), None)], RankRule(error=error), round_to=1)
    values = _values(_linear())
    lost = [np.linalg.norm(values[rank:]) / np.linalg.norm(values) for rank in (_rank(found), _rank(found) - 1)]
    assert lost[0] <= error < lost[1]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_a_ratio_is_the_largest_rank_that_keeps_within_it(ratio: float) -> None:
    layer = _linear()
    found = choose([ChannelSplit.of(layer, None)], RankRule(ratio=ratio), round_to=1)
    assert isinstance(found, Option)
    assert found.parameters <= ratio * layer.parameters < found.parameters + 100


def test_a_ratio_too_small_for_any_rank_gives_rank_1() -> None:
    assert _rank(choose([ChannelSplit.of(_linear(), None)], RankRule(ratio=0.001), round_to=8)) == 1


def test_evbmf_finds_the_signal_and_never_less_than_1() -> None:
    rng = np.random.default_rng(0)
    signal = 5 * rng.standard_normal((40, 5)) @ rng.standard_normal((5, 60))
    noise = rng.standard_normal((40, 60))
    ranks = []
    for weight in (signal + noise, noise):
        layer = Layer("fc", "Linear", Outline("fc", (40, 60)), weight, None, (60,))
        ranks.append(_rank(choose([ChannelSplit.of(layer, None)], "evbmf", round_to=1)))
    assert ranks == [5, 1]


def test_a_number_is_taken_as_it_is() -> None:
    assert _rank(choose([ChannelSplit.of(_linear(), None)], 13, round_to=8)) == 13


def test_two_numbers_are_output_and_input_channels() -> None:
    found = choose([tucker_split(_conv(), None)], (7, 5), round_to=8)
    assert isinstance(found, Option)
    assert [part.shape for part in found.split.outlines(found.rank)] == [(5, 12, 1, 1), (7, 5, 3, 3), (16, 7, 1, 1)]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (30, "rank 30 would not lower its MACs"),
        (41, "rank 41 is more than its full rank, 40"),
        (RankRule(energy=0.9999999), "every rank that saves MACs loses more"),
    ],
)
def test_a_layer_that_would_not_save_stays_whole(rule: Any, says: str) -> None:
    found = choose([ChannelSplit.of(_linear(decay=0.99), None)], rule, round_to=1)
    assert isinstance(found, str)
    assert says in found


def test_ranks_are_multiples_from_where_rounding_starts() -> None:
    ranks = [one.rank[0] for one in options(ChannelSplit.of(_linear(), None), 8)]
    assert ranks == [1, 2, 3, 4, 5, 6, 7, 8, 16]
    assert _rank(choose([ChannelSplit.of(_linear(), None)], RankRule(error=0.3), round_to=8)) % 8 == 0


def test_of_two_schemes_the_cheaper_for_the_error_or_the_more_exact_for_the_size_is_taken() -> None:
    splits = [ChannelSplit.of(_conv(), None), SpatialSplit.of(_conv(), None)]
    for rule, key in ((RankRule(error=0.6), "macs"), (RankRule(ratio=0.4), "error")):
        found = choose(splits, rule, round_to=1)
        each = [choose([split], rule, round_to=1) for split in splits]
        assert isinstance(found, Option)
        assert getattr(found, key) == min(getattr(one, key) for one in each if isinstance(one, Option))


LAYERS = {layer.name: layer for layer in (_linear("a", (12, 16), 0.5), _linear("b", (10, 14), 0.8, 1))}
SPLITS = {name: [ChannelSplit.of(layer, None)] for name, layer in LAYERS.items()}
TOTAL = sum(layer.macs for layer in LAYERS.values())


def _left(found: Mapping[str, Option]) -> int:
    return sum(found[name].macs if name in found else layer.macs for name, layer in LAYERS.items())


def _error(found: Mapping[str, Option]) -> float:
    return sum(one.error for one in found.values())


def test_no_other_ranks_that_save_as_much_lose_less() -> None:
    """Against every pair of ranks: all states along the path are on the lower hull of error over what is left."""
    every = [[None, *options(SPLITS[name][0], 1)] for name in LAYERS]
    pairs = [
        {name: one for name, one in zip(LAYERS, chosen, strict=True) if one is not None}
        for chosen in itertools.product(*every)
    ]
    steps = path(SPLITS, "macs", 1)
    assert len(steps) > 5
    for count in range(1, len(steps) + 1):
        found = state(steps[:count])
        assert _error(found) == pytest.approx(min(_error(pair) for pair in pairs if _left(pair) <= _left(found)))


@pytest.mark.parametrize("ratio", [0.8, 0.5, 0.3])
def test_a_shared_ratio_is_just_reached(ratio: float) -> None:
    steps = path(SPLITS, "macs", 1)
    count = keeping(steps, TOTAL, ratio)
    assert _left(state(steps[:count])) <= ratio * TOTAL < _left(state(steps[: count - 1]))


def _chooser(rule: Any, **changes: Any) -> Chooser:
    rules = [LayerRule(layer, rule) for layer in LAYERS.values()]
    return Chooser(rules, SPLITS, "macs", 1, Events(), **changes)


def test_validated_ranks_are_the_lowest_whose_score_holds() -> None:
    tried: list[float] = []

    def validate(found: Mapping[str, Option]) -> float:
        tried.append(100 * _error(found))
        return tried[-1]

    chosen = _chooser(RankRule(validation_drop=5), validate=validate).choose()
    assert 100 * _error(chosen.options) <= 5
    steps = path(SPLITS, "macs", 1)
    lower = [state(steps[:count]) for count in range(1, len(steps) + 1)]
    saves_more = [found for found in lower if _left(found) < _left(chosen.options) - TOTAL / 64]
    assert saves_more
    assert all(100 * _error(found) > 5 for found in saves_more)
    assert [entry["drop"] for entry in chosen.tried] == tried
    assert len(tried) <= 6


def test_validated_ranks_leave_everything_whole_when_nothing_holds() -> None:
    chosen = _chooser(RankRule(validation_drop=5), validate=lambda found: 6.0).choose()
    assert not chosen.options
    assert set(chosen.whole) == {"a", "b"}


def test_validation_without_samples_is_refused() -> None:
    with pytest.raises(UsageError, match=r"validation_drop needs scores[\s\S]*set data\.validation"):
        _chooser(RankRule(validation_drop=5)).choose()


def test_a_layer_that_the_clock_refuses_stays_whole_and_the_others_decide_again() -> None:
    def time(one: Option) -> tuple[float, float]:
        return (1.0, 2.0) if one.split.layer.name == "a" else (1.0, 0.5)

    chosen = _chooser(RankRule(global_ratio=0.6), time=time).choose()
    assert chosen.whole == {"a": "slower in pieces: 2.0000 ms instead of 1.0000 ms"}
    assert chosen.latency == {"a": (1.0, 2.0), "b": (1.0, 0.5)}
    (found,) = chosen.options.values()
    assert found.macs <= 0.6 * LAYERS["b"].macs


def test_a_layer_as_fast_in_pieces_is_factorized() -> None:
    assert set(_chooser(3, time=lambda one: (1.0, 1.0)).choose().options) == {"a", "b"}
