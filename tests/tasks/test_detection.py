"""Boxes: scored by COCO's average precision, compared with the original's, suppressed where they overlap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressctl.core.objects import as_objects
from compressctl.tasks.boxes import corners, iou, non_maximum_suppression
from compressctl.tasks.detection import BOXES, average_precision, average_precision_50, average_precision_75, by_class
from compressctl.tasks.params import BoxForm

FORMS: tuple[BoxForm, ...] = ("cxcywh", "xyxy", "xywh", "yxyx")


@st.composite
def boxes(draw: st.DrawFn, most: int = 12, classes: int = 3, side: int = 40) -> np.ndarray:
    """(k, 6) of whole coordinates, so that overlaps and equal scores are frequent."""
    count = draw(st.integers(0, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corner, size = rng.integers(0, side, (count, 2)), rng.integers(1, side, (count, 2))
    scores, numbers = rng.integers(1, 10, (count, 1)) / 10, rng.integers(0, classes, (count, 1))
    return np.concatenate([corner, corner + size, scores, numbers], axis=1).astype(np.float64)


def test_intersection_over_union_is_that_of_a_hand_count() -> None:
    left = np.array([[0, 0, 4, 4], [0, 0, 0, 0]])
    right = np.array([[2, 2, 6, 6], [0, 0, 4, 4], [9, 9, 9, 9]])
    assert iou(left, right).tolist() == [[4 / 28, 1, 0], [0, 0, 0]]


def test_the_forms_of_a_box_mean_the_same_corners() -> None:
    rows = {"cxcywh": [15, 25, 10, 30], "xyxy": [10, 10, 20, 40], "xywh": [10, 10, 10, 30], "yxyx": [10, 10, 40, 20]}
    assert {tuple(corners(np.array([rows[form]]), form)[0]) for form in FORMS} == {(10, 10, 20, 40)}


def _by_pairs(rows: np.ndarray, most_iou: float) -> np.ndarray:
    """Suppression as it is defined, pair by pair, for rows of different scores."""
    kept: list[np.ndarray] = []
    for row in sorted(rows, key=lambda row: -row[4]):
        if all(iou(row[None], other[None])[0, 0] <= most_iou for other in kept if other[5] == row[5]):
            kept.append(row)
    return np.array(kept).reshape(-1, 6)


@given(boxes(most=20))
def test_suppression_keeps_what_the_definition_keeps(rows: np.ndarray) -> None:
    rows[:, 4] += np.arange(len(rows)) / 1000
    assert np.array_equal(non_maximum_suppression(rows, 0.4, 100), _by_pairs(rows, 0.4))


@given(boxes(), st.booleans())
def test_suppression_twice_is_suppression_once(rows: np.ndarray, class_agnostic: bool) -> None:
    once = non_maximum_suppression(rows, 0.5, 100, class_agnostic=class_agnostic)
    assert np.array_equal(non_maximum_suppression(once, 0.5, 100, class_agnostic=class_agnostic), once)


@given(boxes(), st.randoms(use_true_random=False))
def test_the_order_of_boxes_does_not_matter(rows: np.ndarray, random: object) -> None:
    order = np.arange(len(rows))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert np.array_equal(non_maximum_suppression(rows[order], 0.5, 5), non_maximum_suppression(rows, 0.5, 5))


def test_one_class_suppresses_another_only_on_request() -> None:
    rows = np.array([[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 1]], np.float64)
    assert len(non_maximum_suppression(rows, 0.5, 10)) == 2
    assert len(non_maximum_suppression(rows, 0.5, 10, class_agnostic=True)) == 1
    assert len(non_maximum_suppression(np.repeat(rows, 2, 0), None, 3)) == 3


def _reference(outputs: list[np.ndarray], labels: list[np.ndarray], thresholds: list[float]) -> float:
    """COCO's average precision, written down for itself: each threshold and class by loops, 101 recalls."""
    values = []
    for number in sorted({int(label[4]) for rows in labels for label in rows}):
        for threshold in thresholds:
            found = []
            for image, rows in enumerate(outputs):
                of_class = [row for row in rows if row[5] == number]
                found += [(row, image) for row in sorted(of_class, key=lambda row: -row[4])]
            found.sort(key=lambda pair: -pair[0][4])
            total = sum(int(label[4]) == number for rows in labels for label in rows)
            taken: set[tuple[int, int]] = set()
            right = []
            for row, image in found:
                best, at = threshold - 1e-10, None
                for place, label in enumerate(labels[image]):
                    overlap = iou(row[None, :4], label[None, :4])[0, 0]
                    if label[4] == number and (image, place) not in taken and overlap >= best:
                        best, at = overlap, (image, place)
                right.append(at is not None)
                if at is not None:
                    taken.add(at)
            hits = np.cumsum(right)
            recall, precision = hits / total, hits / np.arange(1, len(right) + 1)
            reached = [
                max((p for p, r in zip(precision, recall, strict=True) if r >= point - 1e-12), default=0.0)
                for point in np.linspace(0, 1, 101)
            ]
            values.append(np.mean(reached))
    return float(100 * np.mean(values)) if values else np.nan


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(boxes(most=6, side=12), boxes(most=6, side=12)), min_size=1, max_size=4))
def test_average_precision_is_that_of_an_independent_count(samples: list[tuple[np.ndarray, np.ndarray]]) -> None:
    outputs = [found.copy() for found, _ in samples]
    at = 0
    for rows in outputs:  # scores differ, so that no order of equal ones decides
        rows[:, 4] = np.random.default_rng(at).permutation(np.arange(at, at + len(rows))) / 100 + 0.01
        at += len(rows)
    labels = [wanted[:, [0, 1, 2, 3, 5]] for _, wanted in samples]
    given_, wanted_ = as_objects(outputs), as_objects(labels)
    for metric, thresholds in (
        (average_precision, [0.5 + 0.05 * step for step in range(10)]),
        (average_precision_50, [0.5]),
        (average_precision_75, [0.75]),
    ):
        assert metric(given_, wanted_) == pytest.approx(_reference(outputs, labels, thresholds), nan_ok=True)


def test_what_is_found_whole_scores_a_hundred_and_nothing_scores_zero() -> None:
    rows = as_objects([np.array([[0, 0, 10, 10, 0.9, 2]]), np.zeros((0, 6))])
    labels = BOXES.as_labels(rows)
    assert average_precision(rows, labels) == 100
    assert average_precision(as_objects([np.zeros((0, 6))] * 2), labels) == 0
    assert np.isnan(average_precision(rows, as_objects([np.zeros((0, 5))] * 2)))


def test_the_best_hundred_boxes_of_a_class_count() -> None:
    labels = as_objects([np.array([[0, 0, 10, 10, 0]])])
    wrong = [[50, 50, 60, 60, 0.9, 0]] * 99
    for more, score in ((wrong, 1), (wrong + wrong[:1], 0)):
        found = np.array([[50, 50, 60, 60, 0.9, 1]] * 200 + more + [[0, 0, 10, 10, 0.5, 0]])
        assert average_precision(as_objects([found]), labels) == pytest.approx(score, abs=0.01)


def test_precision_by_class() -> None:
    labels = as_objects([np.array([[0, 0, 10, 10, 1], [20, 20, 30, 30, 4]])])
    assert by_class(as_objects([np.array([[0, 0, 10, 10, 0.5, 1.0]])]), labels) == {1: 100, 4: 0}


def test_what_lies_in_a_crowd_does_not_count() -> None:
    found = as_objects([np.array([[0, 0, 10, 10, 0.5, 0.0], [50, 50, 60, 60, 0.9, 0.0]])])
    wanted = np.array([[0, 0, 10, 10, 0, 0], [40, 40, 90, 90, 0, 1]])
    assert average_precision(found, as_objects([wanted])) == 100
    assert average_precision(found, as_objects([wanted[:1]])) == pytest.approx(50)


@pytest.mark.parametrize(
    ("output", "label", "words"),
    [
        (np.zeros((2, 5)), np.zeros((1, 5)), r"a result of a sample should be \(boxes, 6\).*found \[2, 5\]"),
        (np.zeros((2, 6)), np.zeros((5,)), r"labels of a sample should be \(boxes, 5\).*found \[5\]"),
        (np.full((1, 6), np.nan), np.zeros((1, 5)), "not finite"),
    ],
)
def test_what_is_no_boxes_is_said(output: np.ndarray, label: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        average_precision(as_objects([output]), as_objects([label]))


@given(st.lists(boxes(), min_size=1, max_size=3))
def test_boxes_against_themselves_are_all_kept(samples: list[np.ndarray]) -> None:
    samples = [non_maximum_suppression(rows, 0.5, 100) for rows in samples]
    found = BOXES.tally(as_objects(samples), as_objects(samples))
    assert (found.kept, found.added, found.equal_samples) == (found.reference, 0, len(samples))


@given(boxes(), boxes())
def test_a_tally_counts_every_box_once(before: np.ndarray, after: np.ndarray) -> None:
    found = BOXES.tally(as_objects([before]), as_objects([after]))
    assert found.reference == len(before) == sum(row[0] for row in found.by_class.values())
    assert found.kept + found.added == len(after)
    assert found.kept == sum(row[1] for row in found.by_class.values()) <= len(before)


def test_one_box_is_kept_for_one_alone_and_never_by_another_class() -> None:
    before = np.array([[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 11, 0.8, 0], [50, 50, 60, 60, 0.7, 1]])
    after = np.array([[0, 0, 10, 10, 0.6, 0], [50, 50, 60, 60, 0.7, 2]])
    found = BOXES.tally(as_objects([before]), as_objects([after]))
    assert (found.reference, found.kept, found.added, found.equal_samples) == (3, 1, 1, 0)
    assert found.by_class == {0: (2, 1, 0), 1: (1, 0, 0), 2: (0, 0, 1)}
