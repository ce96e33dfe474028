"""Whether there is time for another candidate."""

from compressctl.search.clock import Clock
from compressctl.search.space import Candidate


def candidate(weight: float = 1.0, family: str = "family") -> Candidate:
    return Candidate("one", family, "words", "calibrated", (), weight=weight)


def test_what_takes_longer_than_what_is_left_is_not_begun() -> None:
    now = [0.0]
    clock = Clock(100, lambda: now[0])
    clock.add(candidate(), 20)
    assert clock.estimate(candidate(2)) == 50
    now[0] = 45.0
    assert clock.allows(candidate(2))
    now[0] = 55.0
    assert not clock.allows(candidate(2))
    assert clock.allows(candidate())


def test_what_a_family_takes_is_told_by_itself_where_it_was_seen() -> None:
    clock = Clock(100, lambda: 0.0)
    clock.add(candidate(family="slow"), 40)
    assert clock.estimate(candidate()) == 50
    clock.add(candidate(), 4)
    assert clock.estimate(candidate()) == 5
    assert clock.estimate(candidate(family="slow")) == 50


def test_a_longer_training_takes_more_time_for_its_epochs_alone() -> None:
    """Cutting takes 80 seconds of the first, whatever follows, and its two epochs two."""
    clock, stages = Clock(1000, lambda: 0.0), ({"id": "cut"}, {"id": "taught", "epochs": 2})
    brief, whole = (Candidate("one", "family", "words", "trained", stages, weight=weight) for weight in (2.0, 8.0))
    clock.add(brief, 82, 2)
    assert clock.estimate(whole) == 1.25 * (80 + 8)
    clock.add(whole, 5, 0.0)  # its training came from the cache
    assert clock.estimate(whole) == 1.25 * (80 + 8)
    clock.add(whole, 400)  # stopped there: who knows by what
    assert clock.estimate(brief) == 1.25 * (80 + 2 * 50)


def test_time_is_kept_for_the_file_in_the_end() -> None:
    clock = Clock(100, lambda: 0.0)
    clock.reserved = 100
    assert not clock.allows(candidate())


def test_what_nobody_knows_is_tried_while_any_time_is_left() -> None:
    assert Clock(1, lambda: 0.0).estimate(candidate()) is None
    assert Clock(1, lambda: 0.0).allows(candidate())


def test_without_an_end_everything_is_allowed() -> None:
    clock = Clock(None)
    clock.add(candidate(), 1e9)
    assert clock.allows(candidate())
    assert clock.left is None
