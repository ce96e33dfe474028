"""Goals, as they are asked for."""

import math

import pytest

from compressctl.core.errors import UsageError
from compressctl.search.request import LEVELS, Goal, goal_of, training_of


def test_nothing_asked_allows_one_point() -> None:
    assert goal_of(None, None, None, None) == Goal(drop=1.0)


def test_limits_that_are_given_replace_those_of_the_level() -> None:
    assert goal_of("high", None, 2.5, None) == Goal(drop=3.0, smaller=8, speedup=2.5)
    assert goal_of("high", 1.0, None, 5_000_000) == Goal(drop=1.0, speedup=4, size_bytes=5_000_000)


def test_each_level_asks_for_a_file_twice_as_small_as_the_one_before() -> None:
    assert [goal.smaller for goal in LEVELS.values()] == [2, 4, 8, 16]


@pytest.mark.parametrize("wrong", [{"drop": -0.1}, {"drop": math.nan}, {"speedup": 0.0}, {"speedup": math.inf}])
def test_limits_that_no_file_can_have_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        goal_of(None, wrong.get("drop"), wrong.get("speedup"), None)


def test_the_tighter_limit_on_size_counts() -> None:
    assert Goal(smaller=4).limit_bytes(1001) == 250
    assert Goal(smaller=4, size_bytes=100).limit_bytes(1001) == 100
    assert Goal().limit_bytes(1001) is None


def test_values_for_training_are_read_as_a_recipe_has_them() -> None:
    found = training_of(["epochs=3", "augment={crop_padding: 4}", "nesterov=false"])
    assert found == {"epochs": 3, "augment": {"crop_padding": 4}, "nesterov": False}


@pytest.mark.parametrize("text", ["epochs", "epoch=3", "epochs=-1", "augment={crop: 4}", "augment={"])
def test_values_that_no_training_takes_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="--train"):
        training_of([text])


def test_no_limit_is_a_file_of_nothing() -> None:
    with pytest.raises(UsageError, match="no bytes"):
        goal_of(None, None, None, 0)
    assert goal_of(None, None, None, None, 1e300).limit_bytes(1000) == 1
