"""Rounds of choices: each learns from what was measured, none is tried twice, and they end."""

import pytest
from search.test_program import layer, tables
from support.searching import figures, point

from compressctl.search.document import Point
from compressctl.search.planned import Planner, whole_files
from compressctl.search.program import Program
from compressctl.search.request import Goal

TABLES = tables(*(layer(1000 + 10 * n, 0.01 * n, 0.4 * n, 0.05 * n) for n in range(1, 8)))


def planner(goal: Goal, limit: int | None = None) -> Planner:
    return Planner(TABLES, goal, limit, "balanced")


def measured(loss8: float = 0.3, loss4: float = 12.0) -> dict[str, Point]:
    return {"int8": point("int8", figures(7400, 2.0, loss8)), "w4a8": point("w4a8", figures(3800, 2.0, loss4))}


def all_rounds(one: Planner, points: dict[str, Point]) -> list[list[str]]:
    found = []
    while more := one.more(points):
        found.append([candidate.name for candidate in more])
        points |= {candidate.name: point(candidate.name, figures(5000, 2.0, 0.5)) for candidate in more}
        assert len(found) < 10
    return found


def test_rounds_end_and_nothing_is_chosen_twice() -> None:
    one = planner(Goal(drop=2.0))
    rounds = all_rounds(one, measured())
    assert 1 <= len(rounds) <= 3
    choices = [tuple(option.name for option in choice.values()) for choice in one.choices.values()]
    assert len(set(choices)) == len(choices)
    assert ("int8",) * 7 not in choices


def test_what_is_expected_keeps_what_is_asked() -> None:
    one = planner(Goal(drop=2.0, speedup=1.5), 5500)
    assert one.more(measured())
    for told in one.foreseen.values():
        assert told.loss <= 2.0
        assert told.total_bytes <= 5500
        assert told.times_faster is not None
        assert told.times_faster >= 1.5


def test_where_not_everything_can_be_kept_the_least_loss_within_the_other_limits_is_tried() -> None:
    one = planner(Goal(drop=0.001), 4200)
    found = one.more(measured())
    assert found
    assert min(told.total_bytes for told in one.foreseen.values()) <= 4200


def test_scales_follow_what_came() -> None:
    one = planner(Goal(drop=2.0))
    points = measured()
    names = [candidate.name for candidate in one.more(points)]
    before = {name: one.foreseen[name].loss for name in names}
    points |= {name: point(name, figures(5000, 2.0, 4 * before[name])) for name in names}
    one.more(points)
    assert one.scales[1].loss["int4"] > one.scales[0].loss["int4"]


def test_candidates_say_what_they_are_and_were_foretold() -> None:
    one = planner(Goal(drop=2.0))
    (first, *_) = one.more(measured())
    assert first.kind == "planned"
    assert "every layer by itself: " in first.words
    told = one.predicted(first.name)
    assert told is not None
    assert told.loss == pytest.approx(one.foreseen[first.name].loss)
    assert one.predicted("int8") is None


def test_a_failed_point_teaches_nothing() -> None:
    one = planner(Goal(drop=2.0))
    points = {**measured(), "w4a8": point("w4a8", None, reason="broke")}
    assert one.more(points)


def test_where_training_is_to_come_there_is_one_round_of_one_choice_of_each_kind() -> None:
    one = Planner(TABLES, Goal(drop=2.0), None, "balanced", is_brief=True)
    rounds = all_rounds(one, measured())
    assert len(rounds) == 1
    assert len(rounds[0]) <= 2


def test_everything_in_float_is_no_candidate() -> None:
    """What loses least is the original itself, which nothing has to make."""
    one = Planner(TABLES, Goal(drop=2.0), None, "quality")
    assert all(candidate.stages for candidate in one.more(measured()))
    assert not [choice for choice in one.choices.values() if {option.width for option in choice.values()} == {"float"}]


def test_a_file_that_was_timed_again_in_full_changes_no_later_choice() -> None:
    """Else the next start would make up other candidates than the one that wrote the journal."""
    first, second = planner(Goal(drop=2.0)), planner(Goal(drop=2.0))
    names = [candidate.name for candidate in first.more(measured())]
    second.more(measured())
    seen = {**measured(), **{name: point(name, figures(5000, 2.5, 0.5)) for name in names}}
    again = {
        name: one.model_copy(update={"figures": figures(5000, 0.7, 0.5), "briefly": one.figures.speed})
        for name, one in seen.items()
        if name in names and one.figures is not None
    }
    assert first.more(seen) == second.more({**seen, **again})
    assert first.scales == second.scales


def test_a_file_whose_option_no_layer_has_tells_nothing() -> None:
    """As shared values of a network in torch, which the tables of its graph do not have."""
    points = measured()
    first, second = planner(Goal(drop=2.0)), planner(Goal(drop=2.0))
    first.more(points)
    second.more({**points, "shared16-int8": point("shared16-int8", figures(100, 50.0, 0.0))})
    assert first.scales == second.scales


def test_files_that_layers_were_not_looked_at_for_tell_nothing_but_eight_bits() -> None:
    """A layer that there was no time for has 8 bits alone in the tables, and 4 in the file."""
    program = Program(TABLES)
    assert {"int8", "w4a8"} <= whole_files(TABLES, program).keys()
    first, *others = TABLES.layers
    unseen = TABLES.model_copy(update={"layers": (first.model_copy(update={"options": first.options[:1]}), *others)})
    assert first.options[0].width == "int8"
    assert whole_files(unseen, Program(unseen)).keys() == {"int8"}
