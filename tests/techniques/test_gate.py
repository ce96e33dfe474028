"""The order in which layers go back to float."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compressctl.techniques.quantize._gate import _squared, ranked


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300), st.integers(8, 64))
def test_every_layer_is_ranked_once_within_the_probes(costs: list[float], probes: int) -> None:
    nodes = [f"n{place}" for place in range(len(costs))]
    by_name = dict(zip(nodes, costs, strict=True))
    asked = 0

    def cost(group: Sequence[str]) -> float:
        nonlocal asked
        asked += 1
        return sum(by_name[node] for node in group)

    found = ranked(nodes, cost, probes)
    assert sorted(found) == sorted(nodes)
    assert asked <= probes
    if len(nodes) <= probes:
        assert [by_name[node] for node in found] == sorted(costs, reverse=True)


@given(st.integers(0, 299), st.integers(65, 300))
def test_one_layer_that_spoils_the_model_is_found_among_many(bad: int, count: int) -> None:
    nodes = [f"n{place}" for place in range(count)]
    worst = nodes[bad % count]
    assert ranked(nodes, lambda group: 100.0 * (worst in group) + 0.01 * len(group), 64)[0] == worst


def test_outputs_that_are_no_numbers_say_nothing_about_a_layer() -> None:
    labels = np.array(["cat", "dog"], object)
    assert _squared({"scores": np.array([1.0, 3.0]), "label": labels}, {"scores": np.ones(2), "label": labels}) == 2.0
