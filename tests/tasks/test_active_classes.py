"""Classes that are active in frames, any number at once: read off scores, scored, held against the original's."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from compressctl.core.errors import UsageError
from compressctl.core.objects import as_objects
from compressctl.tasks.active_classes import ACTIVE, decoder, equal_frames, f1, f1_by_class
from compressctl.tasks.params import ActiveParams

SILENCE, ONE, BOTH = [0, 0], [1, 0], [1, 1]


def test_classes_of_several_outputs_stand_side_by_side_each_with_its_threshold() -> None:
    notes, onsets = np.array([[[0.2, 0.4], [0.9, 0.1]]]), np.array([[[0.45, 0.55], [0.6, 0.1]]])
    decode = decoder(ActiveParams(outputs={"note": 0.3, "onset": 0.5}), Path())
    assert decode({"note": notes, "onset": onsets})[0].tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_the_first_output_is_read_where_none_is_named_whichever_axis_counts_classes() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 5, 3))
    assert np.array_equal(decoder(ActiveParams(), Path())({"y": scores})[1], scores[1] > 0)
    assert np.array_equal(decoder(ActiveParams(axis=1, threshold=0.5), Path())({"y": scores})[1], scores[1].T > 0.5)


def test_outputs_without_frames_or_with_others_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(n, frames, classes\), and the output is \[2, 5\]"):
        decoder(ActiveParams(), Path())({"y": np.zeros((2, 5))})
    with pytest.raises(UsageError, match="the same frames"):
        decoder(ActiveParams(outputs={"a": 0, "b": 0}), Path())({"a": np.zeros((1, 4, 2)), "b": np.zeros((1, 5, 2))})
    with pytest.raises(ValidationError, match="has none to be of"):
        ActiveParams(outputs={"a": 0.3}, threshold=0.5)


def test_scores_by_hand() -> None:
    found, labels = as_objects([np.array([SILENCE, ONE, BOTH])]), as_objects([np.array([SILENCE, BOTH, BOTH])])
    assert equal_frames(found, labels) == pytest.approx(100 * 2 / 3)
    assert f1(found, labels) == pytest.approx(100 * 2 * 3 / (3 + 4))
    assert f1_by_class(found, labels) == {0: 100.0, 1: pytest.approx(100 * 2 * 1 / (1 + 2))}
    with pytest.raises(ValueError, match="cannot be held against"):
        equal_frames(found, as_objects([np.zeros((2, 2))]))


def test_silence_counts_as_equal_and_not_as_kept() -> None:
    before, after = as_objects([np.array([SILENCE, SILENCE, BOTH])]), as_objects([np.array([SILENCE, ONE, ONE])])
    found = ACTIVE.tally(before, after)
    assert (found.reference, found.kept, found.added, found.equal_samples) == (2, 1, 1, 0)
    assert found.by_class == {0: (1, 1, 1), 1: (1, 0, 0)}


def test_a_result_of_another_length_keeps_nothing() -> None:
    found = ACTIVE.tally(as_objects([np.array([BOTH])]), as_objects([np.array([BOTH, BOTH])]))
    assert (found.reference, found.kept, found.added, found.equal_samples) == (2, 0, 0, 0)
