"""The order in which layers go back to float."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compressctl.techniques.quantize._gate import noise_of, ranked


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
    found, wanted = ({"scores": scores, "label": labels} for scores in (np.array([1.0, 3.0]), np.ones(2)))
    assert noise_of([found], [wanted]) == 2.0


def test_scores_count_as_much_as_boxes_in_pixels() -> None:
    wanted = np.stack([np.full((1, 9), 300.0), np.full((1, 9), 0.5)], axis=1)
    boxes, scores = wanted * np.array([1.01, 1]).reshape(1, 2, 1), wanted * np.array([1, 1.2]).reshape(1, 2, 1)
    assert noise_of([{"y": scores}], [{"y": wanted}]) > 100 * noise_of([{"y": boxes}], [{"y": wanted}])
