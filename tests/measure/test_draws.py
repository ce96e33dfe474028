"""Decoded results beside a threshold: counted on several inputs, in the mean."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from compressctl.core.events import Events
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.core.tasks import Judge
from compressctl.measure.draws import NUDGES, with_draws
from compressctl.measure.fidelity_limits import fidelity_checks
from compressctl.measure.results import DecodedChange
from compressctl.measure.score import decoded_change, predict
from compressctl.recipe.schema import GateSection
from compressctl.report.decoded import sentences, summary
from compressctl.sources.dataset import PositionSplit


@dataclass
class Fake:
    """A session that computes what it is told."""

    compute: Callable[[np.ndarray], np.ndarray] = lambda x: x
    calls: int = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"y": self.compute(next(iter(inputs.values())))}

    def repeat(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        return lambda: self.run(inputs)


def _boxes(outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """A box where a sample's value is 1 or more."""
    return [
        np.array([[0.0, 0.0, 9.0, 9.0, value, 0.0]] * int(value >= 1)).reshape(-1, 6) for value in outputs["y"][:, 0]
    ]


JUDGE = Judge("detection", decode=_boxes)


def _counted(
    compute: Callable[[np.ndarray], np.ndarray], values: list[float], dtype: str = "float32"
) -> tuple[DecodedChange, Fake]:
    signature = Signature((TensorSpec("x", dtype, ("n", 1)),), (TensorSpec("y", dtype, ("n", 1)),))
    model: Any = OnnxModel(None, signature)  # type: ignore[arg-type]
    given = np.array(values, dtype)[:, None]
    split = PositionSplit(np.arange(len(values)), lambda at: ({"x": given[at]}, None), None)
    before, after = (predict(Fake(one), split, signature, 4, judge=JUDGE) for one in (lambda x: x, compute))
    found, session = decoded_change(before, after, JUDGE, None, Events()), Fake(compute)
    drawn = with_draws({"": found}, {"": before}, model, lambda: session, split, Target("x"), JUDGE, Events())[""]
    assert drawn is not None
    return drawn, session


def _without_three(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x - 3) < 0.1, 0, x).astype(x.dtype)


def test_what_lies_on_the_threshold_counts_as_often_as_it_is_found() -> None:
    found, _ = _counted(_without_three, [2, 1, 3, 0])
    assert (found.reference, found.kept, found.added) == (3, 2, 0)
    draws = found.draws
    assert draws is not None
    assert draws.inputs == 1 + len(NUDGES)
    assert draws.kept_percent == pytest.approx(100 * (2 + 2 + 2 + 1 + 1) / 5 / 3)
    assert (draws.kept_low, draws.kept_high) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
    assert found.kept_percent == draws.kept_percent
    assert "53.33 % of boxes kept" in summary(found)
    assert "53.33 % are kept (33.33 to 66.67)" in "\n".join(sentences(found, None))


@pytest.mark.parametrize(("limit", "holds"), [(54, False), (53, True)])
def test_limits_are_held_against_the_mean(limit: float, holds: bool) -> None:
    found, _ = _counted(_without_three, [2, 1, 3, 0])
    [check] = fidelity_checks(GateSection(kept=limit), (), {"": found})
    assert (check.holds, check.actual) == (holds, found.kept_percent)
    assert "the mean of 33.33 to 66.67 on 5 inputs that differ in their last bits" in check.explanation


@pytest.mark.parametrize(
    ("compute", "values", "dtype"),
    [
        (lambda x: x, [2, 1, 3], "float32"),  # nothing is lost
        (_without_three, [2, 1, 3], "int32"),  # no float to nudge
        (_without_three, [0, 0.5], "float32"),  # nothing is found
        (_without_three, [3, *[2] * 5_000], "float32"),  # many are counted
    ],
)
def test_one_count_is_enough_where_nothing_is_drawn(
    compute: Callable[[np.ndarray], np.ndarray], values: list[float], dtype: str
) -> None:
    found, session = _counted(compute, values, dtype)
    assert found.draws is None
    assert session.calls == 0
