"""Scores of tasks that came out as no number: named in the table, and no budget holds by them."""

import math

import pytest

from compressctl.measure.budget import _of_tasks
from compressctl.measure.results import TaskScore
from compressctl.report.bundles import _of_task


def _score(baseline: float | None, compressed: float | None) -> TaskScore:
    return TaskScore(
        task="pets", metric="acc", filter="none", samples=4, shots=0, higher_is_better=True,
        baseline=baseline, compressed=compressed, baseline_error=None, compressed_error=None,
    )  # fmt: skip


@pytest.mark.parametrize("limits", [0.5, {"pets": 0.5}, {"pets/acc": 0.5}])
@pytest.mark.parametrize(("baseline", "compressed"), [(0.5, None), (None, 0.5), (None, None)])
def test_a_score_that_is_no_number_misses_its_limit(
    limits: float | dict[str, float], baseline: float | None, compressed: float | None
) -> None:
    score = _score(baseline, compressed)
    assert score.drop is None
    assert [check.holds for check in _of_tasks(limits, [score])] == [False]
    row = _of_task(score)
    assert row.count("no number") == [baseline, compressed].count(None)
    assert row[-1] == "-"


def test_a_score_inside_its_limit_holds() -> None:
    (check,) = _of_tasks(0.5, [_score(0.75, 0.5)])
    assert check.holds
    assert math.isclose(check.actual or 0, 0.25)
