"""The least cut against every possible one."""

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.numerics.least_cut import Arc, least_cut

NODES = 6
COSTS = st.lists(st.integers(-20, 20).map(float), min_size=NODES, max_size=NODES)
PLACES = st.integers(0, NODES - 1)
ARCS = st.lists(st.tuples(PLACES, PLACES, st.integers(0, 15).map(float)), max_size=12)


def cost(sides: Sequence[bool], costs: Sequence[float], arcs: Sequence[Arc]) -> float:
    own = sum(cost for cost, side in zip(costs, sides, strict=True) if side)
    return own + sum(cost for a, b, cost in arcs if sides[a] and not sides[b])


@given(COSTS, ARCS)
def test_no_other_choice_costs_less(costs: list[float], arcs: list[Arc]) -> None:
    least = min(cost(sides, costs, arcs) for sides in product((False, True), repeat=NODES))
    assert cost(least_cut(costs, arcs), costs, arcs) == pytest.approx(least, abs=1e-6)


def test_a_dear_arc_keeps_both_on_one_side() -> None:
    assert least_cut([-2.0, 1.0], [(0, 1, 5.0)]) == [True, True]
    assert least_cut([-2.0, 3.0], [(0, 1, 5.0)]) == [False, False]
    assert least_cut([-2.0, 3.0], [(1, 0, 5.0)]) == [True, False]


def test_nothing_has_no_sides() -> None:
    assert least_cut([], []) == []


def test_an_arc_that_pays_is_refused() -> None:
    with pytest.raises(ValueError, match="costs less than nothing"):
        least_cut([1.0, 1.0], [(0, 1, -1.0)])
