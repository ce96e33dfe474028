"""Behaviour change against counting by hand."""

import numpy as np
import pytest
from scipy import stats

from compressctl.measure.prediction_change import behaviour
from compressctl.measure.score import Predictions

LABELS = np.array([0] * 20 + [1] * 20)


def _predictions(classes: np.ndarray, offset: int = 100) -> Predictions:
    return Predictions(np.eye(2)[classes] * 4.0, LABELS, np.arange(offset, offset + len(LABELS)))


def test_flips_churn_and_tests_are_counted_per_class() -> None:
    before, after = LABELS.copy(), LABELS.copy()
    after[:8] = 1
    before[39] = 0
    found = behaviour(_predictions(before), _predictions(after), ["cat", "dog"])
    assert found is not None
    assert found.churn == pytest.approx(9 / 40)
    assert found.negative_flip_rate == pytest.approx(8 / 40)
    assert found.p_value == pytest.approx(stats.binomtest(1, 9).pvalue)
    assert found.changed == (*range(100, 108), 139)
    cat, dog = found.classes
    assert (cat.name, cat.before, cat.after, cat.right_to_wrong) == ("cat", 100.0, 60.0, 8)
    assert cat.p_value == pytest.approx(2 * stats.binomtest(0, 8).pvalue)
    assert (dog.name, dog.before, dog.after, dog.p_value) == ("dog", 95.0, 100.0, 1.0)


def test_no_change_is_no_change() -> None:
    same = _predictions(LABELS)
    found = behaviour(same, same, ["cat", "dog"])
    assert found is not None
    assert (found.churn, found.p_value, found.divergence, found.changed) == (0.0, 1.0, 0.0, ())
    assert found.calibration_error_before == found.calibration_error_after


def test_a_single_logit_is_that_of_the_second_of_two_classes() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (2, 40, 1))
    before, after = (Predictions(found, LABELS, np.arange(40)) for found in logits)
    single = behaviour(before, after, ["cat", "dog"])
    chances = [1 / (1 + np.exp(-found)) for found in logits]
    both = [Predictions(np.hstack([1 - chance, chance]), LABELS, np.arange(40)) for chance in chances]
    pair = behaviour(*both, ["cat", "dog"])
    assert single is not None
    assert pair is not None
    assert single.changed == pair.changed
    assert single.classes == pair.classes
    assert single.calibration_error_after == pytest.approx(pair.calibration_error_after)
    assert single.divergence == pytest.approx(pair.divergence)


@pytest.mark.parametrize("broken", [np.zeros((40, 2, 3)), np.full((40, 2), np.nan)])
def test_outputs_that_are_no_class_scores_have_no_behaviour(broken: np.ndarray) -> None:
    strange, sound = Predictions(broken, LABELS, np.arange(40)), _predictions(LABELS)
    assert behaviour(strange, sound, ["cat", "dog"]) is None
    assert behaviour(sound, strange, ["cat", "dog"]) is None


def test_labels_of_several_classes_per_sample_have_no_behaviour() -> None:
    several = Predictions(np.eye(2)[LABELS], np.eye(2)[LABELS], np.arange(40))
    assert behaviour(several, several, ["cat", "dog"]) is None
