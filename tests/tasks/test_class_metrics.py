"""Metrics of scores: values counted by hand, and what they must not depend on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.tasks.class_metrics import (
    average_precision_by_class,
    balanced_accuracy,
    macro_f1,
    mean_average_precision,
    micro_f1,
    roc_auc,
)
from compressctl.tasks.ranking import ndcg_at_10, recall_at_1, recall_at_10, reciprocal_rank

SCORES = np.eye(3)[[0, 1, 2, 2]]
LABELS = np.array([0, 1, 1, 2])


def test_macro_f1_and_balanced_accuracy_by_hand() -> None:
    """Class 0: 1; class 1: precision 1, recall 1/2; class 2: precision 1/2, recall 1."""
    assert macro_f1(SCORES, LABELS) == pytest.approx(100 * (1 + 2 / 3 + 2 / 3) / 3)
    assert balanced_accuracy(SCORES, LABELS) == pytest.approx(100 * (1 + 0.5 + 1) / 3)


def test_roc_auc_counts_pairs() -> None:
    """Of four pairs (a sample of class 1, one of class 0) three are in order."""
    scores, labels = np.array([0.1, 0.6, 0.4, 0.9]), np.array([0, 0, 1, 1])
    assert roc_auc(scores, labels) == pytest.approx(75)
    assert roc_auc(np.stack([-scores, scores], 1), labels) == pytest.approx(75)
    assert np.isnan(roc_auc(scores, np.ones(4, int)))


@given(st.integers(0, 10_000))
def test_roc_auc_of_several_classes_does_not_depend_on_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(30, 3)), rng.integers(0, 3, 30)
    if len(np.unique(labels)) == 3:
        assert roc_auc(scores, labels) == pytest.approx(roc_auc(scores * 7 + 3, labels))


def test_labels_side_by_side() -> None:
    scores = np.array([[0.9, 0.2, 0.3], [0.4, 0.8, 0.1], [0.7, 0.6, 0.2]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    assert average_precision_by_class(scores, labels) == pytest.approx({0: 100, 1: 100})
    assert mean_average_precision(scores, labels) == pytest.approx(100)
    assert micro_f1(scores, labels) == pytest.approx(200 * 3 / (4 + 3))
    assert micro_f1(scores * 10 - 5, labels) == pytest.approx(200 * 3 / (4 + 3))


@pytest.mark.parametrize("metric", [mean_average_precision, micro_f1])
def test_labels_that_are_no_labels_side_by_side_are_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match="the labels are"):
        metric(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="0 or 1"):
        metric(np.zeros((2, 3)), np.full((2, 3), 2))


def test_ndcg_by_hand() -> None:
    """One query, relevances 0 and 1 in the wrong order: the gain of 1 at place 2. The other query is right."""
    scores = np.array([0.9, 0.1, 0.2, 0.8])
    labels = np.array([[7, 0], [7, 1], [8, 0], [8, 2]])
    assert ndcg_at_10(scores, labels) == pytest.approx(100 * (1 / np.log2(3) + 1) / 2)
    assert reciprocal_rank(scores, labels) == pytest.approx(75)


def test_equal_scores_bring_nothing() -> None:
    """A model that gives all samples one score is not right by the order in which they are stored."""
    labels = np.array([[0, 1], [0, 0], [0, 0], [0, 0]])
    assert reciprocal_rank(np.zeros(4), labels) == 25
    assert ndcg_at_10(np.zeros(4), labels) == pytest.approx(ndcg_at_10(np.zeros(4), labels[::-1]))


@given(st.integers(0, 10_000))
def test_ndcg_is_sklearn_s(seed: int) -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(seed)
    scores, relevance = rng.normal(size=15), rng.integers(0, 3, 15)
    if relevance.any():
        labels = np.stack([np.zeros(15, int), relevance], 1)
        assert ndcg_at_10(scores, labels) == pytest.approx(100 * ndcg_score([2.0**relevance - 1], [scores], k=10))


def test_nearest_samples_of_the_same_label() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.4], [-1, -1]])
    labels = np.array([0, 0, 1, 1, 1, 2])
    assert recall_at_1(vectors, labels) == pytest.approx(
        80
    )  # the fifth lies among the first two; nobody shares the last one's label
    assert recall_at_10(vectors, labels) == 100
