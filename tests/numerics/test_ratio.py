"""The interval of a ratio: launches, protocols and what lies between runs each widen it, and the value stays inside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressctl.numerics.ratio import BETWEEN_RUNS, Paired, paired_ratio


def _measured(ratio: float, seed: int, *, noise: float = 0.02, launches: int = 5) -> Paired:
    rng = np.random.default_rng(seed)
    before = [ratio * rng.lognormal(0, noise) * rng.lognormal(0, noise, size=6) for _ in range(launches)]
    after = [rng.lognormal(0, noise) * rng.lognormal(0, noise, size=6) for _ in range(launches)]
    return Paired(before, after)


@settings(max_examples=30)
@given(st.floats(0.1, 10), st.floats(0.7, 1.4), st.floats(0, 0.3), st.integers(1, 9), st.integers(0, 1000))
def test_both_protocols_lie_inside_and_one_more_only_widens(
    ratio: float, protocol: float, noise: float, launches: int, seed: int
) -> None:
    back_to_back = _measured(ratio, seed, noise=noise, launches=launches)
    alone = paired_ratio(back_to_back)
    both = paired_ratio(back_to_back, _measured(ratio * protocol, seed + 1, noise=noise, launches=launches))
    assert both.alternating is not None
    assert both.low < min(both.value, both.alternating)
    assert max(both.value, both.alternating) < both.high
    assert both.low <= alone.low
    assert both.high >= alone.high
    assert both.value == alone.value


@settings(max_examples=30)
@given(st.floats(0.1, 10), st.floats(0, 0.3), st.integers(2, 9), st.integers(0, 1000))
def test_exchanging_the_two_inverts_value_and_interval(ratio: float, noise: float, launches: int, seed: int) -> None:
    found = _measured(ratio, seed, noise=noise, launches=launches)
    there, back = paired_ratio(found), paired_ratio(Paired(found.after, found.before))
    assert back.value == pytest.approx(1 / there.value)
    assert (back.low, back.high) == (pytest.approx(1 / there.high), pytest.approx(1 / there.low))


def test_launches_that_agree_exactly_leave_what_lies_between_runs() -> None:
    found = paired_ratio(_measured(2.0, 0, noise=0.0))
    assert found.value == pytest.approx(2.0)
    assert np.log(found.high / found.low) == pytest.approx(2 * 1.96 * BETWEEN_RUNS)
    assert found.between_launches == pytest.approx(1.0)


@pytest.mark.parametrize("protocol", [1.0, 0.88])
def test_another_measurement_by_either_protocol_falls_inside_nineteen_times_of_twenty(protocol: float) -> None:
    """A world with the model's own terms: runs that differ by BETWEEN_RUNS, launches within them, rounds within those."""
    rng, inside, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        shift, other = rng.normal(0, BETWEEN_RUNS / 2**0.5, size=2)
        ours = _measured(2.0 * np.exp(shift), trial, noise=0.005)
        turns = _measured(2.0 * protocol * np.exp(shift), trial + trials, noise=0.005)
        found = paired_ratio(ours, turns)
        inside += found.low <= 2.0 * protocol * np.exp(other) <= found.high
    assert inside >= 0.93 * trials
