"""Classes of tokens and frames: read off scores, scored where there are labels."""

from pathlib import Path

import numpy as np
import pytest

from compressctl.core.errors import UsageError
from compressctl.core.objects import as_objects
from compressctl.tasks.params import SequenceParams
from compressctl.tasks.sequences import FRAMES, accuracy, decoder, f1, f1_by_class


def test_a_class_for_each_token() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 5, 4))
    assert np.array_equal(decoder(SequenceParams(), Path())({"y": scores})[1], scores[1].argmax(-1))
    assert np.array_equal(decoder(SequenceParams(axis=1), Path())({"y": scores})[1], scores[1].argmax(0))


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 1)])
def test_a_single_score_decides_by_its_threshold(shape: tuple[int, ...]) -> None:
    shares = np.linspace(0, 1, 10).reshape(shape)
    assert np.concatenate(decoder(SequenceParams(threshold=0.5), Path())({"p": shares})).tolist() == [0] * 5 + [1] * 5


def test_scores_of_something_else_are_refused() -> None:
    with pytest.raises(UsageError, match="tokens or frames"):
        decoder(SequenceParams(), Path())({"y": np.zeros((2, 3, 4, 5))})


def test_scores_by_hand() -> None:
    found = as_objects([np.array([0, 1, 2]), np.array([1, 0])])
    labels = as_objects([np.array([0, 1, 1]), np.array([-100, 2])])
    assert accuracy(found, labels) == 50
    assert f1(found, labels) == pytest.approx(100 * 2 * 1 / (2 + 3))
    assert f1_by_class(found, labels)[1] == pytest.approx(100 * 2 * 1 / (1 + 2))
    with pytest.raises(ValueError, match="cannot be held against"):
        accuracy(found, labels[::-1])


def test_frames_that_changed_are_counted() -> None:
    before, after = as_objects([np.array([0, 1, 1])]), as_objects([np.array([0, 1, 2])])
    found = FRAMES.tally(before, after)
    assert (found.reference, found.kept, found.equal_samples) == (3, 2, 0)
    assert found.by_class == {0: (1, 1, 0), 1: (2, 1, 0), 2: (0, 0, 1)}
