"""Behaviour change against counting by hand."""

import numpy as np
import pytest
from scipy import stats

from compressctl.measure.behaviour import behaviour
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


def test_outputs_that_are_no_class_scores_have_no_behaviour() -> None:
    single = Predictions(np.zeros((40, 1)), LABELS, np.arange(40))
    assert behaviour(single, single, ["cat", "dog"]) is None
