"""Trainings are doubled while that may bring what is missing, and would be handed over then."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from search.test_trainings import FACTS
from support.searching import figures, point

from compressctl.search.document import Point
from compressctl.search.longer import longer
from compressctl.search.narrow import on_a_scale
from compressctl.search.request import Goal
from compressctl.search.space import Candidate
from compressctl.search.trainings import Trainings

WHOLE = 10
SCALE = list(on_a_scale(replace(FACTS, samples={**FACTS.samples, "train": 40_000}), Goal(), {}, four_keep=True))
SIZES = {"narrow60": 700, "narrow40": 500, "narrow25": 300}


def worth(
    lost: Mapping[str, float | None],
    goal: Goal | None = None,
    *,
    candidates: list[Candidate] = SCALE,
    more: Mapping[str, Point] | None = None,
    limit: int | None = None,
) -> Candidate | None:
    """What is trained for longer. lost: points, by what was trained so far; None for what failed."""
    points = {
        name: point(name, None if loss is None else figures(SIZES[name.split("-")[0]], 2.0, loss))
        for name, loss in lost.items()
    }
    return longer(candidates, {**points, **(more or {})}, lost, goal or Goal(drop=1.0), limit, "balanced", WHOLE)


def epochs(one: Candidate | None) -> list[int]:
    return [] if one is None else [stage["epochs"] for stage in one.stages if "epochs" in stage]


def test_a_training_that_came_near_is_doubled() -> None:
    """From 2 to 10 epochs the loss fell by 0.8 a doubling."""
    one = worth({"narrow40": 3.5, "narrow40-long": 1.6})
    assert one is not None
    assert (one.name, epochs(one), one.after) == ("narrow40-long-20epochs", [20], ())
    assert one.words.endswith("; all of its training 2 times as long")
    again = worth({"narrow40": 3.5, "narrow40-long": 1.6, one.name: 1.3}, candidates=[*SCALE, one])
    assert again is not None
    assert (again.name, epochs(again)) == ("narrow40-long-40epochs", [40])
    assert again.words.endswith("4 times as long")


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        ({"narrow40": 1.9, "narrow40-long": 1.6}, "five times the epochs brought 0.3"),
        ({"narrow40-long": 1.7}, "nothing tells what epochs bring"),
        ({"narrow40": 3.5, "narrow40-long": 0.9}, "it keeps the loss"),
        ({"narrow40": 1.4}, "it was trained briefly only"),
        ({"narrow40": 1.4, "narrow40-long": None}, "the whole training failed"),
        ({"narrow60-long": 0.5, "narrow60": 1.2, "narrow40": 9.0}, "the only near one keeps everything"),
        ({"narrow25-long": 0.5, "narrow60": 3.0, "narrow60-long": 1.4}, "a smaller file keeps everything"),
    ],
)
def test_what_is_not_worth_it(lost: Mapping[str, float | None], why: str) -> None:
    assert worth(lost) is None, why


def test_what_misses_more_than_the_loss_is_not_worth_it() -> None:
    lost = {"narrow40": 3.5, "narrow40-long": 1.6}
    assert worth(lost, Goal(drop=1.0, smaller=7), limit=600) is not None
    assert worth(lost, Goal(drop=1.0, smaller=10), limit=400) is None


def test_of_two_the_one_that_would_be_handed_over_comes_first() -> None:
    lost = {"narrow40": 3.5, "narrow40-long": 1.4, "narrow25": 4.0, "narrow25-long": 1.8}
    keeps = {"int8": point("int8", figures(1000, 2.0, 0.1))}
    named = [getattr(worth(lost, more=more), "name", None) for more in (keeps, {})]
    assert named == ["narrow25-long-20epochs", "narrow40-long-20epochs"], "with a file that keeps all, and without"


@given(st.floats(0.0, 6.0), st.floats(0.0, 6.0), st.floats(0.0, 6.0))
def test_doubling_ends(first: float, floor: float, falls: float) -> None:
    """Whatever the law of losses: at most eight times as long, and each offer is twice the last one's length."""
    known: dict[str, float | None] = {"narrow40": first + floor, "narrow40-long": first / (1 + falls) + floor}
    candidates, length = list(SCALE), WHOLE
    while (one := worth(known, candidates=candidates)) is not None:
        assert epochs(one) == [2 * length]
        length *= 2
        candidates.append(one)
        known[one.name] = first / (1 + falls) ** (1 + length / WHOLE) + floor
    assert length <= 8 * WHOLE


@pytest.mark.parametrize(("training", "offers"), [({}, 1), ({"epochs": 10}, 0)])
def test_what_the_user_fixed_stays(training: Mapping[str, Any], offers: int) -> None:
    facts = replace(FACTS, samples={**FACTS.samples, "train": 40_000})
    request: Any = SimpleNamespace(goal=Goal(drop=1.0), training=training, prefer="balanced")
    clock: Any = SimpleNamespace(left=None)
    bench: Any = SimpleNamespace(facts=facts)
    trainings = Trainings(request, bench, None, clock, (), lambda text: None)
    lost = {"narrow40": 3.5, "narrow40-long": 1.6}
    points = {name: point(name, figures(500, 2.0, loss)) for name, loss in lost.items()}
    assert len(trainings.longer(SCALE, points, lost)) == offers
