"""Schedules are proposed by what came of others, and a search that was stopped goes on as it would have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("optuna")

from compressctl.core.errors import UsageError
from compressctl.search.document import Figures, Loss, Point
from compressctl.search.narrow import Trim
from compressctl.search.request import Goal
from compressctl.search.space import Candidate
from compressctl.search.trainings import Trainings
from compressctl.search.tune import TUNING, Tuner

NETWORK = Trim("trimmed", ({"id": "narrow", "use": "prune.channels", "keep": 0.5},), ("conv1",), 50, "half of it")


def tuner(folder: Path, training: Mapping[str, object] | None = None, key: str = "key") -> Tuner:
    return Tuner(folder, NETWORK, 10, 2, training or {}, lambda one: key)


def schedule(one: Candidate) -> dict[str, float]:
    """What a recipe would train with."""
    taught = next((stage for stage in one.stages if stage["use"] == "distill.logits"), None)
    rounded = next(stage for stage in one.stages if stage["use"] == "quantize.qat")
    assert taught is not None
    return {
        "rate": taught["learning_rate"],
        "temperature": taught["temperature"],
        "epochs": taught["epochs"] + rounded["epochs"],
        "rounded": rounded["epochs"],
    }


def loss_of(one: Candidate) -> float:
    """Best at a rate of 0.06 and a temperature of 2."""
    found = schedule(one)
    return abs(math.log(found["rate"] / 0.06)) + abs(math.log(found["temperature"] / 2)) + 4 / found["epochs"]


def point(one: Candidate, loss: float | None) -> Point:
    told = (
        None
        if loss is None
        else Loss(value=loss, kind="metric", what="accuracy", unit="points", split="validation", samples=9)
    )
    figures = Figures(total_bytes=10, smaller=2.0, transport_bytes=10, speed=None, loss=told)
    return Point(
        name=one.name, family=one.family, words=one.words, key=one.name, state="measured", figures=figures, seconds=1, measure_seconds=1,
        weight=1, kind="trained", risk=1, recipe={},
    )  # fmt: skip


def tuned(
    folder: Path, known: dict[str, Point], *, most: int = 99, loss: Callable[[Candidate], float | None] = loss_of
) -> list[Candidate]:
    """So many candidates at most, as one start of a search would try them."""
    tuning, tried = tuner(folder), []
    while len(tried) < most and (one := tuning.next(known, has_time=True)) is not None:
        tried.append(one)
        known.setdefault(one.name, point(one, loss(one)))
    return tried


def test_the_usual_schedule_comes_first_and_the_best_one_last(tmp_path: Path) -> None:
    tried = tuned(tmp_path, {})
    *trials, last = tried
    assert [one.name for one in tried] == [*(f"tuned{n}-brief" for n in range(1, 9)), "tuned"]
    assert schedule(trials[0]) == {"rate": 0.02, "temperature": 4.0, "epochs": 2, "rounded": 1}
    best = min(trials, key=loss_of)
    assert schedule(last)["rate"] == schedule(best)["rate"]
    assert schedule(last)["epochs"] == 10
    assert loss_of(best) < loss_of(trials[0])


@pytest.mark.parametrize("stopped", [1, 4, 8, 9])
def test_a_search_that_was_stopped_goes_on_as_it_would_have(tmp_path: Path, stopped: int) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = tuned(tmp_path / "whole", {})
    known: dict[str, Point] = {}
    first = tuned(tmp_path / "stopped", known, most=stopped)
    known.pop(first[-1].name)  # it was killed in this one
    again = tuned(tmp_path / "stopped", known)
    assert [(one.name, one.stages) for one in again] == [(one.name, one.stages) for one in whole]


def test_without_time_the_best_so_far_is_trained_to_the_end(tmp_path: Path) -> None:
    known: dict[str, Point] = {}
    tuning, trials = tuner(tmp_path), list[Candidate]()
    for number in range(8):
        one = tuning.next(known, has_time=number < 7)
        assert one is not None
        trials.append(one)
        known[one.name] = point(one, loss_of(one))
    *trials, last = trials
    assert last.name == "tuned"
    assert schedule(last)["rate"] == schedule(min(trials, key=loss_of))["rate"]
    assert tuning.next(known, has_time=True) is None


def test_where_the_usual_one_is_best_nothing_is_trained_again(tmp_path: Path) -> None:
    tried = tuned(tmp_path, {}, loss=lambda one: 1.0 if one.name == "tuned1-brief" else 2.0)
    assert [one.name for one in tried] == [f"tuned{n}-brief" for n in range(1, 9)]


def test_trials_that_failed_are_no_end(tmp_path: Path) -> None:
    assert len(tuned(tmp_path, {}, loss=lambda one: None)) == 8


def test_what_the_user_fixed_stays(tmp_path: Path) -> None:
    tuning, known = tuner(tmp_path, {"learning_rate": 0.05}), dict[str, Point]()
    for _ in range(4):
        one = tuning.next(known, has_time=True)
        assert one is not None
        assert schedule(one)["rate"] == 0.05
        known[one.name] = point(one, 1.0)


def test_trials_of_another_network_are_others(tmp_path: Path) -> None:
    tuned(tmp_path, {})
    one = tuner(tmp_path, key="other").next({}, has_time=True)
    assert one is not None
    assert one.name == "tuned1-brief"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / TUNING).write_bytes(b"\x00\xff no trials\n{}\n")
    with pytest.raises(UsageError, match=r"tuning\.log is damaged"):
        tuner(tmp_path)


@pytest.mark.parametrize(
    ("lost", "error", "goes_on"),
    [(0.3, 0.5, False), (0.85, 0.5, True), (1.4, 0.5, True), (0.85, None, False), (4.0, 0.5, False)],
)
def test_a_network_that_keeps_the_loss_by_chance_alone_is_tuned_too(
    lost: float, error: float | None, goes_on: bool, tmp_path: Path
) -> None:
    facts = SimpleNamespace(is_judged=True, samples={"train": 1000})
    bench: Any = SimpleNamespace(facts=facts, folder=tmp_path, recipe=lambda one: one, key=lambda recipe: "key")
    clock: Any = SimpleNamespace(left=None, estimate_of=lambda candidates: 1.0)
    request: Any = SimpleNamespace(goal=Goal(drop=1.0, smaller=2.0), training={"epochs": 10})
    trainings = Trainings(request, bench, 100, clock, (), lambda text: None, networks=(NETWORK,))
    whole = Candidate(NETWORK.label, "narrower", "", "trained", ())
    figures = point(whole, lost).figures
    assert figures is not None
    assert figures.loss is not None
    told = figures.model_copy(update={"loss": figures.loss.model_copy(update={"error": error})})
    points = {NETWORK.label: point(whole, lost).model_copy(update={"figures": told})}
    found = trainings.tuned(points, {NETWORK.label: lost / 1.0})
    assert bool(found) is goes_on
    assert bool(trainings.networks) is goes_on
