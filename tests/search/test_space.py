"""What is tried for which model, and what has to be seen before more of a family is."""

from dataclasses import replace
from typing import Any

import pytest

from compressctl.measure.results import Speedup
from compressctl.search.by_input import early_exits, fewer_tokens, no_exits
from compressctl.search.document import Figures, Point
from compressctl.search.facts import Facts
from compressctl.search.narrow import Shape, as_cut, of_shapes, on_a_scale
from compressctl.search.request import Goal
from compressctl.search.space import KINDS, After, Candidate, Tree, in_order, untrained
from compressctl.search.subject import Asked, subject_of

SPLITS = {"train": 1000, "validation": 200, "calibration": 300, "test": 300}
CONVOLUTIONAL = Facts(
    is_torch=True, parameters=100_000, shares={"convolutions": 0.99, "products": 0.01}, original_bytes=400_000, samples=SPLITS,
    has_labels=True, metric="accuracy", unit="%", task="classification",
)  # fmt: skip
NOTHING = Facts(
    is_torch=False, parameters=100_000, shares={"convolutions": 0.5, "products": 0.5}, original_bytes=400_000,
    samples=SPLITS, is_random=True,
)  # fmt: skip


def candidates(facts: Facts, goal: Goal, training: dict[str, Any] | None = None) -> list[Candidate]:
    """All that a search may try."""
    trained = on_a_scale(facts, goal, training or {}, four_keep=True) if facts.can_train else ()
    return in_order([*untrained(facts, goal), *trained])


def names(facts: Facts, goal: Goal | None = None) -> list[str]:
    return [one.name for one in candidates(facts, goal or Goal())]


def test_without_samples_there_are_floats_of_16_bits_and_rounded_weights_alone() -> None:
    assert names(NOTHING) == ["float16", "weights8", "weights4"]


def test_a_graph_with_samples_is_calibrated_and_not_trained() -> None:
    found = candidates(replace(CONVOLUTIONAL, is_torch=False), Goal())
    assert {"int8", "w4a8", "shared16", "rank70-int8"} <= {one.name for one in found}
    assert not [one for one in found if one.kind == "trained"]


def test_dynamic_ranges_are_for_products() -> None:
    assert "dynamic" not in names(CONVOLUTIONAL)
    assert "dynamic" in names(replace(CONVOLUTIONAL, shares={"products": 0.9}))


def test_training_takes_labels() -> None:
    assert "narrow40" in names(CONVOLUTIONAL)
    assert not [name for name in names(replace(CONVOLUTIONAL, has_labels=False)) if name.startswith("narrow")]


def test_where_integers_gain_less_cut_networks_stay_in_floats() -> None:
    found = list(on_a_scale(CONVOLUTIONAL, Goal(), {}, in_floats=True))
    assert {one.name for one in found} == {
        f"narrow{part}{how}" for part in (80, 60, 40, 25, 15, 8) for how in ("", "-long")
    }
    assert all(one.stages[-1] == {"use": "quantize.weights", "bits": 4, "method": "hqq"} for one in found)
    assert all(one.compressed for one in found)


def test_cheap_ones_come_first() -> None:
    kinds = [KINDS.index(one.kind) for one in candidates(CONVOLUTIONAL, Goal())]
    assert kinds == sorted(kinds)


def test_names_are_unique_and_conditions_name_candidates() -> None:
    for facts in (CONVOLUTIONAL, replace(CONVOLUTIONAL, is_torch=False, shares={"products": 0.9})):
        found = candidates(facts, Goal())
        known = [one.name for one in found]
        assert len(set(known)) == len(known)
        assert {each.candidate for one in found for each in one.after} <= set(known)


@pytest.mark.parametrize("level", [Goal(), Goal(drop=3, smaller=8, speedup=4), Goal(drop=0)])
def test_every_candidate_is_a_recipe_that_is_valid(level: Goal, tmp_path: Any) -> None:
    subject = subject_of(Asked("builtin:digits-resnet"), tmp_path)
    for one in candidates(CONVOLUTIONAL, level, {"epochs": 8}):
        made = subject.recipe(one.stages, export=[{"backend": "onnxruntime"}])
        assert [stage.use for stage in made.stages] == [stage["use"] for stage in one.stages]


def candidate(name: str, *after: After) -> Candidate:
    return Candidate(name, "family", name, "plain", (), after=after)


def tried(tree: Tree, losses: dict[str, float | None]) -> list[str]:
    """In order, each losing so many times what is allowed."""
    found = []
    while (one := tree.next()) is not None:
        found.append(one.name)
        tree.lost[one.name] = losses[one.name]
    return found


FAMILY = [
    candidate("first"),
    candidate("gentler", After("first", "misses")),
    candidate("harder", After("first", "near")),
    candidate("hardest", After("harder", "near")),
]


def test_a_family_that_keeps_its_loss_is_continued_and_not_made_gentler() -> None:
    tree = Tree(FAMILY)
    assert tried(tree, {"first": 0.2, "harder": 0.9, "hardest": 1.1}) == ["first", "harder", "hardest"]
    assert "already keeps" in tree.refused["gentler"]


def test_a_family_whose_gentlest_already_loses_far_too_much_is_not_continued() -> None:
    tree = Tree(FAMILY)
    assert tried(tree, {"first": 7.0, "gentler": 0.5}) == ["first", "gentler"]
    assert tree.refused["harder"] == "first, which is gentler, already lost 7.0 times what is allowed"
    assert tree.refused["hardest"] == "harder was not tried"


def test_nothing_is_built_on_what_failed() -> None:
    tree = Tree(FAMILY)
    assert tried(tree, {"first": None}) == ["first"]
    assert set(tree.refused) == {"gentler", "harder", "hardest"}


def test_of_networks_that_were_trained_briefly_two_go_on() -> None:
    names_ = ("a", "b", "c", "d")
    tree = Tree(
        [
            *(candidate(name) for name in names_),
            *(candidate(f"{name}-long", After(name, "leads", names_)) for name in names_),
        ]
    )
    found = tried(tree, {"a": 3.0, "b": 9.0, "c": 1.0, "d": None} | {f"{name}-long": 0.0 for name in names_})
    assert found == ["a", "b", "c", "d", "c-long", "a-long"], "the better one first: there may be time for one alone"
    assert tree.refused["b-long"] == "c and a lost less after as many epochs"
    assert "gave nothing" in tree.refused["d-long"]


def test_a_network_far_behind_its_rival_is_not_trained_to_the_end() -> None:
    tree = Tree(
        [*map(candidate, "ab"), *(candidate(f"{name}-long", After(name, "leads", ("a", "b"))) for name in "ab")]
    )
    assert tried(tree, {"a": 5.0, "b": 1.0, "b-long": 0.5}) == ["a", "b", "b-long"]
    assert tree.refused["a-long"] == "b lost less after as many epochs"


def test_rivals_that_are_left_out_are_not_waited_for() -> None:
    tree = Tree([candidate("a"), candidate("a-long", After("a", "leads", ("a", "b")))])
    tree.refuse("b", "no time")
    assert tried(tree, {"a": 1.0, "a-long": 0.0}) == ["a", "a-long"]


SHAPES = (
    Shape(100, "macs"),
    Shape(43, "macs"),
    Shape(70, "parameters", blocks=1),
    Shape(100, "macs", bits=4),
    Shape(60, "macs", bits=4),
)


def test_shapes_are_recipes_that_are_valid_and_name_what_foretells_them(tmp_path: Any) -> None:
    subject = subject_of(Asked("builtin:digits-resnet"), tmp_path)
    cut = {as_cut(shape).name for shape in SHAPES}
    assert len(cut) == len(SHAPES)
    found = list(of_shapes(SHAPES, CONVOLUTIONAL, {"epochs": 8}))
    assert {one.shape for one in found} == cut
    for one in [*found, *map(as_cut, SHAPES)]:
        made = subject.recipe(one.stages, export=[{"backend": "onnxruntime"}])
        assert [stage.use for stage in made.stages] == [stage["use"] for stage in one.stages]


def test_briefly_trained_ones_come_before_those_that_wait_for_them() -> None:
    found = in_order(of_shapes(SHAPES, CONVOLUTIONAL, {"epochs": 8}))
    tree = Tree(found)
    order = tried(tree, {one.name: 1.0 for one in found})
    assert all(name.endswith("-brief") for name in order[: len(SHAPES)])
    assert len(order) == len(SHAPES) + 2


TRANSFORMER = replace(CONVOLUTIONAL, shares={"products": 0.9}, attends=6)


def measured(name: str, speed: float) -> Point:
    timed = Speedup(ratio=speed, low=speed, high=speed, verdict="faster")
    figures = Figures(total_bytes=1, smaller=4.0, transport_bytes=1, speed=timed, loss=None)
    return Point(
        name=name, family="int8", words="", key="", state="measured", figures=figures, seconds=1, measure_seconds=1, weight=1,
        kind="calibrated", risk=1, recipe={},
    )  # fmt: skip


def test_fewer_tokens_are_for_networks_that_attend() -> None:
    assert [one.name for one in fewer_tokens(TRANSFORMER)] == ["tokens80", "tokens60", "tokens40"]
    for other in (CONVOLUTIONAL, replace(TRANSFORMER, is_torch=False), replace(TRANSFORMER, samples={})):
        assert not list(fewer_tokens(other))
    everything = [*untrained(TRANSFORMER, Goal()), *fewer_tokens(TRANSFORMER)]
    known = {one.name for one in everything}
    assert {each.candidate for one in everything for each in one.after} <= known


def test_exits_are_tried_where_they_could_bring_what_is_asked() -> None:
    points = {"int8": measured("int8", 2.0)}

    def names_for(speedup: float | None, facts: Facts = CONVOLUTIONAL) -> list[str]:
        return [one.name for one in early_exits(facts, Goal(speedup=speedup), {}, points)]

    assert names_for(None) == names_for(2.5) == ["exits-brief", "exits"]
    assert names_for(4.0) == []
    assert names_for(None, replace(CONVOLUTIONAL, task="segmentation")) == []
    assert list(early_exits(CONVOLUTIONAL, Goal(), {}, {})) == []
    assert no_exits(CONVOLUTIONAL, Goal(speedup=2.5), points) is None
    assert points["int8"].figures is not None
    size = points["int8"].figures.total_bytes
    assert no_exits(CONVOLUTIONAL, Goal(size_bytes=size), points) is None
    assert f"{size:,} bytes already" in str(no_exits(CONVOLUTIONAL, Goal(size_bytes=size - 1), points))
    assert "4x is asked for" in str(no_exits(CONVOLUTIONAL, Goal(speedup=4), points))
    assert "segmentation" in str(no_exits(replace(CONVOLUTIONAL, task="segmentation"), Goal(), points))
