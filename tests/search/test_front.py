"""Which files no other beats, and how far those are that miss what was asked."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.searching import figures, point

from compressctl.measure.speed_words import speedup_of
from compressctl.search.document import Figures
from compressctl.search.front import front, nearest, shortfalls, speed_of
from compressctl.search.request import Goal

SOME = st.builds(figures, st.integers(1, 5), st.sampled_from([1.0, 1.5, 2.0]), st.sampled_from([0.0, 0.5, 1.0]))


def _costs(found: Figures) -> tuple[float, float, float]:
    assert found.speed is not None
    assert found.loss is not None
    return found.total_bytes, -found.speed.ratio, found.loss.value


@given(st.lists(SOME, max_size=12))
def test_everything_off_the_front_is_beaten_or_equalled_by_something_on_it_and_nothing_on_it_is(
    some: list[Figures],
) -> None:
    points = [point(str(place), each) for place, each in enumerate(some)]
    best = front(points)
    kept = [_costs(each.figures) for each in best if each.figures]
    for each in points:
        assert each.figures is not None
        mine = _costs(each.figures)
        covered = any(all(a <= b for a, b in zip(other, mine, strict=True)) for other in kept)
        assert covered
        if each in best:
            assert not any(
                other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in map(_costs, some)
            )
    assert len(set(kept)) == len(kept)


def test_what_was_not_measured_is_on_no_front() -> None:
    assert front([point("failed", None)]) == []


def test_a_file_that_was_not_timed_is_not_taken_for_a_fast_one() -> None:
    timed, untimed = point("timed", figures(1000, 0.5)), point("untimed", figures(1000, None))
    assert front([untimed, timed]) == [timed]


def test_a_loss_that_nobody_knows_keeps_no_limit() -> None:
    missed = shortfalls(figures(loss=None), Goal(drop=100), None, is_judged=True)
    assert missed == {"drop": math.inf}


def test_where_nothing_judges_the_loss_does_not_count() -> None:
    assert shortfalls(figures(loss=None), Goal(drop=0), None, is_judged=False) == {}


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (figures(1000, 2.0, 1.0), set()),
        (figures(1001, 2.0, 1.0), {"size"}),
        (figures(1000, 1.99, 1.0), {"speedup"}),
        (figures(1000, 2.0, 1.01), {"drop"}),
        (figures(1000, None, 1.0), {"speedup"}),
        (figures(2000, 1.0, 5.0), {"size", "speedup", "drop"}),
    ],
)
def test_limits_hold_up_to_their_own_value(found: Figures, missed: set[str]) -> None:
    assert set(shortfalls(found, Goal(drop=1.0, speedup=2.0), 1000, is_judged=True)) == missed


def test_an_interval_that_is_too_wide_counts_by_its_lower_end() -> None:
    assert speed_of(figures(speed=2.0).model_copy(update={"speed": speedup_of(2.0, 1.2, 3.0)})) == 1.2
    assert speed_of(figures(speed=2.0).model_copy(update={"speed": speedup_of(2.0, 1.9, 2.1)})) == 2.0


def test_each_limit_that_alone_stands_in_the_way_is_named_with_the_nearest_file() -> None:
    points = [
        point("lossy", figures(500, 3.0, 2.5)),
        point("lossier", figures(400, 3.0, 4.0)),
        point("large", figures(1200, 3.0, 0.5)),
        point("both", figures(1200, 1.0, 0.5)),
    ]
    found = nearest(points, Goal(drop=1.0, speedup=2.0), 1000, is_judged=True)
    assert [(each.limit, each.point, each.needed) for each in found] == [
        ("drop", "lossy", 2.5),
        ("size", "large", 1200),
    ]
    assert found[0].words == "if 2.50 points could be lost instead of 1"
