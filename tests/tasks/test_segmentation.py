"""Masks: read off scores, scored by mean intersection over union, compared with the original's."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compressctl.core.errors import UsageError
from compressctl.core.objects import as_objects
from compressctl.tasks.params import ArgmaxParams
from compressctl.tasks.segmentation import PIXELS, argmax, iou_by_class, mean_iou

MASKS = st.lists(arrays(np.uint8, (5, 4), elements=st.integers(0, 3)), min_size=1, max_size=4)


def test_a_mask_holds_the_class_with_the_highest_score() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    masks = argmax(ArgmaxParams(), Path())({"logits": scores})
    assert len(masks) == 2
    assert np.array_equal(masks[1], scores[1].argmax(0))


def test_a_single_score_decides_by_its_threshold() -> None:
    shares = np.array([[[[0.2, 0.6]]]])
    assert argmax(ArgmaxParams(threshold=0.5), Path())({"p": shares})[0].tolist() == [[0, 1]]


def test_channels_may_come_last() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    assert np.array_equal(argmax(ArgmaxParams(axis=-1), Path())({"y": scores})[0], scores[0].argmax(-1))


def test_scores_that_are_no_maps_are_refused() -> None:
    with pytest.raises(UsageError, match="scores of pixels are"):
        argmax(ArgmaxParams(), Path())({"y": np.zeros((2, 3))})
    with pytest.raises(UsageError, match="no output 'mask'"):
        argmax(ArgmaxParams(output="mask"), Path())({"y": np.zeros((2, 3, 4, 4))})


def test_mean_iou_is_that_of_a_hand_count() -> None:
    """Class 0: 2 of 3 in common; class 1: 1 of 2."""
    found, wanted = as_objects([np.array([[0, 0], [1, 0]])]), as_objects([np.array([[0, 0], [1, 1]])])
    assert mean_iou(found, wanted) == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert iou_by_class(found, wanted) == pytest.approx({0: 200 / 3, 1: 50})


def test_pixels_without_a_label_do_not_count() -> None:
    labels = as_objects([np.array([[0, 255], [-100, 1]])])
    assert mean_iou(as_objects([np.array([[0, 1], [2, 1]])]), labels) == 100
    assert np.isnan(mean_iou(as_objects([np.array([[0]])]), as_objects([np.array([[255]])])))


@given(MASKS)
def test_masks_against_themselves_are_whole(masks: list[np.ndarray]) -> None:
    results = as_objects(masks)
    assert mean_iou(results, PIXELS.as_labels(results)) == 100
    found = PIXELS.tally(results, results)
    assert (found.kept, found.added, found.equal_samples) == (found.reference, 0, len(masks))


@given(st.data(), MASKS)
def test_a_tally_counts_each_pixel_once(data: st.DataObject, masks: list[np.ndarray]) -> None:
    others = [data.draw(arrays(np.uint8, (5, 4), elements=st.integers(0, 3))) for _ in masks]
    found = PIXELS.tally(as_objects(masks), as_objects(others))
    assert found.reference == sum(mask.size for mask in masks) == sum(row[0] for row in found.by_class.values())
    assert found.kept == sum(int((a == b).sum()) for a, b in zip(masks, others, strict=True))
    assert found.reference - found.kept == sum(row[2] for row in found.by_class.values())


def test_masks_of_many_sizes() -> None:
    sizes = [(2, 3), (4, 1)]
    masks = as_objects([np.ones(size, np.uint8) for size in sizes])
    assert mean_iou(masks, as_objects([np.ones(size, np.int64) for size in sizes])) == 100
