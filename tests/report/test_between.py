"""One run against another: the interval comes with the difference."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.reports import file_measurement

from compressctl.measure.results import Score, Speedup
from compressctl.report.between import score_between, size_between, speed_between


def _speed(ratio: float, width: float) -> Speedup:
    return Speedup(ratio=ratio, low=ratio / width, high=ratio * width, verdict="faster")


def _score(value: float, samples: int = 1000, metric: str = "accuracy") -> Score:
    return Score(metric=metric, value=value, samples=samples, split="test", per_class=None)


def test_overlapping_speed_ups_are_not_told_apart_and_distant_ones_are() -> None:
    assert "no measurable change" in speed_between(_speed(2.0, 1.1), _speed(2.1, 1.1))
    assert speed_between(_speed(2.0, 1.01), _speed(3.0, 1.01)).startswith("1.50x the speed-up (95 %: 1.47 to 1.53)")
    assert speed_between(None, _speed(2.0, 1.1)) == ""


@pytest.mark.parametrize(
    ("right", "samples", "interval"),
    [
        ((48, 56), (80, 70), "+20.00 points (95 %: +5.24 to +33.39)"),
        ((3, 9), (10, 10), "+60.00 points (95 %: +17.05 to +80.90)"),
        ((84, 90), (84, 98), "-8.16 points (95 %: -15.29 to -2.26)"),
    ],
)
def test_the_interval_of_two_scores_is_as_published(
    right: tuple[int, int], samples: tuple[int, int], interval: str
) -> None:
    """Newcombe 1998, table II, method 10: contrasts (a) and (b); the third, at 100 %, from its formula by hand."""
    one, other = (_score(100 * count / of, of) for count, of in zip(right, samples, strict=True))
    assert score_between(one, other) == interval


@given(st.floats(20, 80), st.floats(20, 80), st.integers(2000, 20_000))
def test_for_many_samples_the_interval_is_the_textbooks(one: float, other: float, samples: int) -> None:
    words = score_between(_score(one, samples), _score(other, samples))
    low, high = (float(number) for number in re.findall(r"[+-]\d+\.\d+", words)[-2:])
    deviation = np.sqrt(sum(value / 100 * (1 - value / 100) / samples for value in (one, other))) * 100
    assert high - low == pytest.approx(2 * 1.96 * deviation, abs=0.03)


def test_two_perfect_scores_on_few_samples_are_not_known_to_be_equal() -> None:
    assert score_between(_score(100, 50), _score(100, 50)) == "no measurable change (95 %: -7.13 to +7.13)"


def test_sizes_and_other_metrics() -> None:
    assert size_between(file_measurement(1000), file_measurement(500)) == "2.00x smaller"
    assert size_between(file_measurement(1000), file_measurement(1000)) == "the same"
    assert score_between(_score(0.9, metric="r2"), _score(0.8, metric="r2")).startswith("-0.1000 (no interval")
    assert score_between(_score(90), _score(0.8, metric="r2")) == ""
