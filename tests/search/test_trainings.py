"""What is trained follows what this machine was seen to gain by."""

from types import SimpleNamespace
from typing import Any

import pytest
from support.searching import figures, point

from compressctl.search.facts import Facts
from compressctl.search.narrow import on_a_scale
from compressctl.search.request import Goal
from compressctl.search.space import Tree, in_order
from compressctl.search.trainings import Trainings

FACTS = Facts(
    is_torch=True, parameters=100_000, shares={"convolutions": 1.0}, original_bytes=4000,
    samples={"train": 1000, "validation": 200, "calibration": 300, "test": 300}, has_labels=True, metric="accuracy", unit="%", task="classification",
)  # fmt: skip


@pytest.mark.parametrize(
    ("int8_speed", "four_lost", "last"),
    [(0.88, 0.4, "quantize.weights"), (2.1, 0.4, "quantize.static"), (0.88, 2.0, "quantize.static")],
)
def test_cut_networks_stay_in_floats_where_integers_gain_less(int8_speed: float, four_lost: float, last: str) -> None:
    points = {
        "weights4": point("weights4", figures(700, 1.03, four_lost)),
        "int8": point("int8", figures(1300, int8_speed, 0.0)),
        "w4a8": point("w4a8", figures(900, int8_speed, 0.2)),
    }
    bench: Any = SimpleNamespace(facts=FACTS)
    request: Any = SimpleNamespace(goal=Goal(drop=1.0), training={"epochs": 8})
    clock: Any = SimpleNamespace(left=None)
    offered = Trainings(request, bench, None, clock, (), lambda text: None).offered(points, None, lambda one: None)
    cut = {one.name: one for one in offered}["narrow60"]
    assert cut.stages[-1]["use"] == last


def test_a_gentler_cut_follows_one_that_lost_too_much_and_a_harder_one_what_is_near() -> None:
    tree = Tree(in_order(on_a_scale(FACTS, Goal(drop=1.0), {"epochs": 8})))
    brief = {name for name in (one.name for one in tree.candidates) if "-" not in name}
    assert brief == {"narrow80", "narrow60", "narrow40", "narrow25", "narrow15", "narrow8"}
    first = tree.next()
    assert first is not None
    assert first.name == "narrow60"
    kept, lost_much = (Tree(list(tree.candidates), {"narrow60": times}) for times in (0.4, 6.8))
    assert {one.name for one in (kept.next(), lost_much.next()) if one is not None} == {"narrow40", "narrow80"}
    assert {"narrow80", "narrow80-long"} <= kept.refused.keys()
    assert {"narrow60-long", "narrow40", "narrow25", "narrow15", "narrow8"} <= lost_much.refused.keys()


def test_four_bits_that_the_whole_network_keeps_are_tried_on_a_cut_one_before_they_are_trained() -> None:
    tree = Tree(in_order(on_a_scale(FACTS, Goal(drop=1.0), {"epochs": 8}, four_keep=True)))
    brief, untrained = ({one.name: one for one in tree.candidates}[name] for name in ("narrow60", "narrow60-w4a8"))
    assert untrained.stages[:2] == brief.stages[:2]  # so that its training comes from the cache
    assert untrained.stages[2] == {**brief.stages[2], "weights": "int4"}
    for lost, is_trained in ((0.4, False), (0.6, True), (1.5, True)):
        seen = {"narrow60": 0.4, "narrow60-w4a8": lost, "narrow40": None}
        rest = Tree(list(tree.candidates), seen)
        following = rest.next()
        assert (following is not None and following.name == "narrow60-w4a8-qat") == is_trained
        assert ("narrow60-w4a8-qat" in rest.refused) != is_trained


def test_fewer_tokens_are_trained_where_untrained_ones_lose_too_much() -> None:
    points = {f"tokens{percent}": point(f"tokens{percent}", figures(1600, 1.5, 2.0)) for percent in (80, 60, 40)}
    bench: Any = SimpleNamespace(facts=FACTS)
    request: Any = SimpleNamespace(goal=Goal(drop=1.0), training={"epochs": 8, "optimizer": "adamw"})
    clock: Any = SimpleNamespace(left=None)
    offered = Trainings(request, bench, None, clock, (), lambda text: None).offered(points, None, lambda one: None)
    taught = {one.name: one for one in offered if one.name.startswith("tokens")}
    assert [*taught] == ["tokens80-taught", "tokens60-taught", "tokens40-taught"]
    tokens, rounding = taught["tokens40-taught"].stages
    assert tokens["finetune"] == {"teacher": "original", "learning_rate": 0.02, "epochs": 8, "optimizer": "adamw"}
    assert rounding["use"] == "quantize.dynamic"
    assert {(each.candidate, each.was) for each in taught["tokens40-taught"].after} == {
        ("tokens40", "misses"),
        ("tokens60", "near"),
    }
