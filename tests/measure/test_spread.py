"""How far a figure strays from one set of samples to the next, told from one set."""

import numpy as np
import pytest

from compressctl.measure.spread import Spread


def _spread(before: np.ndarray, after: np.ndarray) -> Spread:
    """Of (calls, values), that decide by their sign."""
    found = Spread()
    for was, now in zip(before, after, strict=True):
        found.add(was @ was, now @ now, was @ now, len(was), float(np.sum((was > 0) == (now > 0))))
    return found


def _cosine(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.sum(before * after) / np.sqrt(np.sum(before**2) * np.sum(after**2)))


def _draw(random: np.random.Generator, calls: int) -> tuple[np.ndarray, np.ndarray]:
    """Calls of which some have much more noise than others."""
    before = random.normal(size=(calls, 20))
    return before, before + random.normal(size=(calls, 20)) * random.choice([0.05, 0.05, 0.8], size=(calls, 1))


def test_it_is_about_what_other_samples_show() -> None:
    random = np.random.default_rng(0)
    draws = [_draw(random, 30) for _ in range(300)]
    cosines = [_cosine(*draw) for draw in draws]
    churns = [float(np.mean((was > 0) != (now > 0))) for was, now in draws]
    told = [_spread(*draw) for draw in draws]
    counts = [(600, 600 * (1 - churn)) for churn in churns]
    assert np.median([one.of_cosine() for one in told]) == pytest.approx(np.std(cosines), rel=0.25)
    assert np.median([one.of_churn(*count) for one, count in zip(told, counts, strict=True)]) == pytest.approx(
        np.std(churns), rel=0.25
    )


def test_few_calls_tell_no_spread_of_cosines_and_that_of_single_decisions() -> None:
    before = np.ones((2, 50))
    found = _spread(before, before)
    assert found.of_cosine() is None
    assert found.of_churn(100, 100) == pytest.approx(0.0070, abs=5e-4)


def test_without_decisions_there_is_no_churn() -> None:
    found = Spread()
    for _ in range(8):
        found.add(1.0, 1.0, 1.0, 0, 0)
    assert found.of_churn(0, 0) is None
    assert found.of_cosine() == 0


def test_silent_calls_and_silent_outputs_have_no_error() -> None:
    found = Spread()
    for _ in range(8):
        found.add(0.0, 0.0, 0.0, 0, 0)
    assert found.of_cosine() is None
