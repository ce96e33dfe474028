"""The exact choice under budgets, against trying everything."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressctl.numerics.knapsack import Limit, Link, choose


def best_of_all(costs: list[list[float]], limits: list[Limit]) -> float | None:
    """The least cost of any plan within the limits, by enumeration."""

    def total(amounts: object, plan: tuple[int, ...]) -> float:
        return float(sum(part[option] for part, option in zip(amounts, plan, strict=True)))  # type: ignore[arg-type, call-overload]

    plans = product(*(range(len(options)) for options in costs))
    fitting = [plan for plan in plans if all(total(limit.amounts, plan) <= limit.most for limit in limits)]
    return min((total(costs, plan) for plan in fitting), default=None)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(0.05, 1.0), st.floats(0.0, 1.0))
def test_it_is_what_enumeration_finds(seed: int, layers: int, tight: float, tight_time: float) -> None:
    rng = np.random.default_rng(seed)
    options = [int(rng.integers(1, 4)) for _ in range(layers)]
    costs = [list(10.0 ** rng.uniform(-6, 0, count)) for count in options]
    sizes = [[float(rng.integers(1, 10**6)) for _ in range(count)] for count in options]
    times = [list(rng.uniform(-0.2, 1.0, count)) for count in options]
    limits = [
        Limit(sizes, tight * sum(map(max, sizes))),
        Limit(times, sum(map(min, times)) + tight_time * sum(max(part) - min(part) for part in times)),
    ]
    chosen, wanted = choose(costs, limits), best_of_all(costs, limits)
    if wanted is None:
        assert chosen is None
        return
    assert chosen is not None
    for limit in limits:
        assert sum(part[option] for part, option in zip(limit.amounts, chosen, strict=True)) <= limit.most
    assert sum(part[option] for part, option in zip(costs, chosen, strict=True)) == pytest.approx(
        wanted, rel=1e-6, abs=1e-9
    )


def test_two_limits_can_ask_for_what_neither_alone_would() -> None:
    """Option 0 is best and large, 1 is slow, 2 is bad at everything but fits both."""
    costs = [[0.0, 1.0, 5.0]]
    size, time = Limit([[9, 1, 2]], 3), Limit([[1, 9, 2]], 3)
    assert choose(costs, []) == [0]
    assert choose(costs, [size]) == [1]
    assert choose(costs, [size, time]) == [2]


def test_a_limit_that_is_met_exactly_is_met() -> None:
    sizes = [[4, 32], [8, 64], [5, 40]]
    assert choose([[1, 0], [1, 0], [1, 0]], [Limit(sizes, 17)]) == [0, 0, 0]
    assert choose([[1, 0], [1, 0], [1, 0]], [Limit(sizes, 16)]) is None


def test_a_hundred_layers_are_chosen_at_once() -> None:
    rng = np.random.default_rng(0)
    costs = [sorted(rng.uniform(0, 1, 3)) for _ in range(100)]
    sizes = [[32.0, 8.0, 4.0]] * 100
    chosen = choose(costs, [Limit(sizes, 800)])
    assert chosen is not None
    assert sum(sizes[0][option] for option in chosen) <= 800


def test_no_layer_is_no_choice() -> None:
    assert choose([], [Limit([], 1)]) == []


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0.1, 1.0))
def test_options_that_need_others_are_chosen_with_them(seed: int, items: int, tight: float) -> None:
    """Each item behind the first two needs an option of both, as weights between two widths do."""
    rng = np.random.default_rng(seed)
    widths = [int(rng.integers(1, 4)) for _ in range(2)]
    pairs = list(product(*map(range, widths)))
    costs = [list(rng.uniform(0, 1, count)) for count in [*widths, *([len(pairs)] * items)]]
    sizes = [[0.0] * count for count in widths] + [[float(rng.integers(1, 100)) for _ in pairs] for _ in range(items)]
    limit = Limit(sizes, tight * sum(map(max, sizes)))
    links = [Link(2 + item, other, [pair[other] for pair in pairs]) for item in range(items) for other in range(2)]
    chosen = choose(costs, [limit], links)
    totals = {
        (sum(part[place] for part in costs[2:]) + costs[0][pair[0]] + costs[1][pair[1]]): sum(
            part[place] for part in sizes[2:]
        )
        for place, pair in enumerate(pairs)
    }
    fitting = [cost for cost, size in totals.items() if size <= limit.most]
    if not fitting:
        assert chosen is None
        return
    assert chosen is not None
    assert {pairs[place] for place in chosen[2:]} == {(chosen[0], chosen[1])}
    found = sum(part[option] for part, option in zip(costs, chosen, strict=True))
    assert found == pytest.approx(min(fitting), rel=1e-6, abs=1e-9)
