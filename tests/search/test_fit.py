"""How narrow a network has to be, from a few that were built and not trained."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.measure.results import Speedup
from compressctl.search.document import Figures, Point
from compressctl.search.fit import fit, too_much, widest
from compressctl.search.request import Goal
from compressctl.search.space import Candidate


@given(
    limit=st.floats(0.01, 3),
    power=st.floats(0.3, 2.5),
    fixed=st.floats(0, 0.2),
)
def test_the_width_that_is_found_keeps_the_limit_and_is_hardly_narrower_than_it_had_to_be(
    limit: float, power: float, fixed: float
) -> None:
    """Bytes grow with some power of the width, beside a part that no width changes."""
    tried: list[int] = []

    def missing(percent: int) -> float:
        tried.append(percent)
        return math.log((fixed + (percent / 100) ** power) / limit)

    found = widest(missing)
    assert len(tried) <= 6
    fits = [percent for percent in range(3, 101) if fixed + (percent / 100) ** power <= limit]
    if found is None:
        assert not fits or max(fits) < 8, "nothing, or hardly anything, would have done"
    else:
        assert missing(found) <= 0
        assert found >= 0.7 * max(fits) - 1


def test_the_whole_network_is_enough_where_it_keeps_the_limit() -> None:
    tried = []

    def missing(percent: int) -> float:
        tried.append(percent)
        return -0.2

    assert widest(missing) == 100
    assert tried == [100]


def test_a_width_that_cannot_be_made_ends_the_search_with_what_is_known() -> None:
    assert widest(lambda percent: None) is None
    assert widest(lambda percent: 0.7 if percent == 100 else -0.2 if percent > 40 else None) is not None


def figures(total_bytes: int, speed: float | None) -> Figures:
    timed = (
        None
        if speed is None
        else Speedup(ratio=speed, low=speed * 0.99, high=speed * 1.01, alternating=speed, verdict="faster")
    )
    return Figures(
        total_bytes=total_bytes, smaller=1e6 / total_bytes, transport_bytes=total_bytes, speed=timed, loss=None
    )


@pytest.mark.parametrize(
    ("speed", "goal", "limit", "holds"),
    [
        (4.0, Goal(speedup=3), None, True),
        (3.0, Goal(speedup=3), None, False),  # two timings differ by more
        (None, Goal(speedup=3), None, False),
        (4.0, Goal(speedup=3), 100_000, False),
        (4.0, Goal(speedup=3), 110_000, True),
        (None, Goal(), 110_000, True),
    ],
)
def test_size_and_speed_both_count(speed: float | None, goal: Goal, limit: int | None, holds: bool) -> None:
    assert (too_much(figures(105_000, speed), goal, limit) <= 0) is holds


def as_point(one: Candidate, found: Figures | None) -> Point:
    return Point(
        name=one.name, family=one.family, words=one.words, key=one.name, state="measured" if found else "failed", figures=found,
        reason="" if found else "no residual block", seconds=1, measure_seconds=1, weight=1, kind=one.kind, risk=1, recipe={},
    )  # fmt: skip


def share_of(one: Candidate) -> float:
    return next((stage["keep"] for stage in one.stages if stage["use"] == "prune.channels"), 1.0)


def test_each_number_of_blocks_and_width_of_weights_has_its_own_width() -> None:
    """Half as many bits are worth twice the width; a network without residual blocks is asked for fewer of them once."""
    built = []

    def build(one: Candidate) -> Point:
        built.append(one.name)
        if any(stage["use"] == "prune.layers" for stage in one.stages):
            return as_point(one, None)
        return as_point(one, figures(round((250_000 if not one.compressed else 125_000) * share_of(one)), 2.0))

    found = fit(Goal(smaller=10, speedup=1.5), 100_000, {}, build)
    assert [(shape.bits, shape.blocks, shape.of) for shape in found.shapes] == [
        (8, 0, "parameters"),
        (4, 0, "parameters"),
    ]
    eight, four = (shape.percent for shape in found.shapes)
    assert 37 <= eight <= 40
    assert 75 <= four <= 80
    assert len([name for name in built if name.startswith("shorter")]) == 2
    assert set(found.refused.values()) == {"no residual block"}


def test_what_no_width_reaches_is_said_before_anything_is_trained() -> None:
    found = fit(Goal(speedup=50), None, {}, lambda one: as_point(one, figures(100_000, 2.0)))
    assert not found.shapes
    assert all("misses what is asked by" in why for why in found.refused.values())


def test_what_there_was_no_time_to_build_is_not_called_impossible() -> None:
    """The whole network misses, and time ends before a narrower one is built."""
    built: list[str] = []

    def build(one: Candidate) -> Point | None:
        built.append(one.name)
        return as_point(one, figures(100_000, 2.0)) if len(built) == 1 else None

    why = fit(Goal(speedup=3), None, {}, build).refused["narrow"]
    assert "100 % of it misses what is asked by" in why
    assert "there was no time to build" in why
    assert "even" not in why
