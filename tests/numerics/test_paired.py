"""Paired statistics against scipy and hand computations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from compressctl.numerics.paired import calibration_error, holm, mcnemar, mean_divergence, softmax

counts = st.integers(0, 400)


@given(counts, counts)
def test_mcnemar_is_the_exact_binomial_test(a: int, b: int) -> None:
    expected = stats.binomtest(min(a, b), a + b, 0.5).pvalue if a + b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_holm_as_in_the_textbook() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_p_values_and_bonferroni(p_values: list[float]) -> None:
    given_, adjusted = np.array(p_values), holm(np.array(p_values))
    assert np.all(adjusted >= given_)
    assert np.all(adjusted <= np.minimum(given_ * len(given_), 1.0) + 1e-12)


def test_softmax_agrees_with_scipy_and_leaves_probabilities_alone() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)) * 50
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities, special.softmax(logits, axis=1), atol=1e-12)
    assert np.array_equal(softmax(probabilities), probabilities)


def test_calibration_error_by_hand() -> None:
    """Two bins: confidence 0.9 and right half of the time, confidence 0.6 and always right."""
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2)
    labels = np.array([0, 0, 1, 1, 0, 0])
    assert calibration_error(probabilities, labels) == pytest.approx(4 / 6 * 0.4 + 2 / 6 * 0.4)


def test_divergence_is_zero_only_without_change() -> None:
    rng = np.random.default_rng(1)
    before, after = softmax(rng.normal(size=(50, 4))), softmax(rng.normal(size=(50, 4)))
    assert mean_divergence(before, before) == 0
    expected = np.mean([stats.entropy(p, q) for p, q in zip(before, after, strict=True)])
    assert mean_divergence(before, after) == pytest.approx(expected)
