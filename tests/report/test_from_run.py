"""The sentences that a run ends with."""

import pytest
from support.reports import file_measurement

from compressctl.measure.results import Score
from compressctl.report.from_run import _drop_words


@pytest.mark.parametrize(
    ("metric", "before", "after", "drop", "expected"),
    [
        ("accuracy", 90.0, 88.5, 1.5, "accuracy down 1.50 points"),
        ("accuracy", 88.5, 90.0, -1.5, "accuracy up 1.50 points"),
        ("cer", 5.0, 11.25, 6.25, "cer up 6.25 points"),
        ("cer", 5.0, 3.0, -2.0, "cer down 2.00 points"),
        ("cer", 5.0, 5.0, 0.0, "cer unchanged"),
    ],
)
def test_a_score_goes_where_its_value_does_whichever_way_is_better(
    metric: str, before: float, after: float, drop: float, expected: str
) -> None:
    one, two = (
        Score(metric=metric, value=value, samples=100, split="test", per_class=None) for value in (before, after)
    )
    change = file_measurement(1000, drop=drop).change
    assert change is not None
    assert _drop_words(one, two, change, metric, "%") == expected
