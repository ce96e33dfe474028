"""What changed for single samples of models that give numbers or tokens, and for groups of samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from compressctl.measure.changed_examples import as_png
from compressctl.measure.drift import drift, neighbour_overlap, token_drift
from compressctl.measure.groups import group_changes, group_errors
from compressctl.measure.score import Predictions

RNG = np.random.default_rng(0)


def _predictions(outputs: np.ndarray, labels: np.ndarray | None = None) -> Predictions:
    return Predictions(outputs, labels, np.arange(100, 100 + len(outputs)))


def test_regression_drift_names_the_samples_that_moved_most() -> None:
    before = RNG.normal(size=(30, 1)).astype(np.float32)
    after = before.copy()
    after[[4, 17], 0] += [3.0, -5.0]
    found = drift(_predictions(before, before[:, 0]), _predictions(after, before[:, 0]), neighbours=False)
    assert found is not None
    assert found.worst[:2] == (117, 104)
    assert found.largest_change == pytest.approx(5.0)
    assert found.mean_change == pytest.approx(8 / 30)
    assert found.cosine_mean is None
    assert found.error_p_value is not None


def test_embeddings_that_only_grow_keep_their_neighbours() -> None:
    before = RNG.normal(size=(50, 8))
    same = drift(_predictions(before), _predictions(before * 3), neighbours=True)
    other = drift(_predictions(before), _predictions(RNG.normal(size=(50, 8))), neighbours=True)
    assert same is not None
    assert other is not None
    assert (same.neighbours, same.cosine_least) == (1.0, pytest.approx(1.0))
    assert other.neighbours is not None
    assert other.neighbours < 0.6


@given(st.integers(1, 12))
def test_neighbours_of_few_samples_are_all_of_them(samples: int) -> None:
    assert neighbour_overlap(RNG.normal(size=(samples, 4)), RNG.normal(size=(samples, 4)), 20) == 1.0


def test_tokens_agree_with_their_definitions() -> None:
    before, after = RNG.normal(size=(3, 5, 7)), RNG.normal(size=(3, 5, 7))
    labels = RNG.integers(7, size=(3, 5))
    labels[0, 3] = -100
    found = token_drift(_predictions(before, labels), _predictions(after, labels))
    places = [(n, t) for n in range(3) for t in range(4) if labels[n, t + 1] != -100]
    rows, following = np.array(places).T, [labels[n, t + 1] for n, t in places]
    old, new = (log_softmax(outputs[rows[0], rows[1]], axis=1) for outputs in (before, after))
    assert found is not None
    assert found.tokens == len(places) == 11
    assert found.divergence == pytest.approx(np.mean(np.sum(np.exp(old) * (old - new), axis=1)))
    assert found.agreement == pytest.approx(np.mean(old.argmax(1) == new.argmax(1)))
    assert found.perplexity_before == pytest.approx(np.exp(-old[np.arange(11), following].mean()))
    assert found.perplexity_after == pytest.approx(np.exp(-new[np.arange(11), following].mean()))


def test_nothing_is_said_of_tokens_without_labels_or_with_nan() -> None:
    outputs, labels = RNG.normal(size=(3, 5, 7)), RNG.integers(7, size=(3, 5))
    assert token_drift(_predictions(outputs), _predictions(outputs)) is None
    assert token_drift(_predictions(outputs, labels), _predictions(outputs * np.nan, labels)) is None
    assert token_drift(_predictions(outputs, labels * 0 - 100), _predictions(outputs, labels)) is None


def test_a_gap_that_grows_between_groups_is_beyond_chance() -> None:
    groups = np.repeat(["a", "b", "tiny"], [400, 400, 3])
    was = np.ones(803, bool)
    is_ = was.copy()
    is_[400:480] = False
    is_[800:] = False
    found = group_changes(was, is_, groups)
    assert found is not None
    assert (found.gap_before, found.gap_after) == (0.0, 20.0)
    assert found.low > 10
    assert [group.name for group in found.groups] == ["tiny", "b", "a"]
    assert found.groups[1].right_to_wrong == 80
    assert group_changes(was[:400], is_[:400], groups[:400]) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("ab")), min_size=20, max_size=80))
def test_equal_models_never_widen_a_gap(samples: list[tuple[bool, bool, str]]) -> None:
    right, groups = np.array([sample[0] for sample in samples]), np.array([sample[2] for sample in samples])
    found = group_changes(right, right, groups)
    if found is not None:
        assert found.amplification == found.low == found.high == 0


def test_pictures_are_made_of_images_alone() -> None:
    image = RNG.normal(size=(3, 200, 100))
    assert as_png(image) is not None
    assert as_png(image.transpose(1, 2, 0)) is not None
    assert as_png(RNG.normal(size=10)) is None
    assert as_png(RNG.normal(size=(8, 20, 20))) is None
    assert as_png(np.zeros((1, 8, 8))) is not None


def test_groups_of_errors_are_averaged_apart_and_a_widened_gap_is_seen() -> None:
    rng = np.random.default_rng(0)
    groups = np.array(["a"] * 300 + ["b"] * 300 + ["few"] * 4)
    before = np.abs(rng.normal(0, 1, 604))
    after = before + np.where(groups == "b", 0.5, 0.0) + np.abs(rng.normal(0, 0.05, 604))
    found = group_errors(before, after, groups)
    assert found is not None
    assert found.groups[0].name == "b"
    means = {name: (before[groups == name].mean(), after[groups == name].mean()) for name in ("a", "b")}
    assert found.gap_before == pytest.approx(abs(means["a"][0] - means["b"][0]))
    assert found.gap_after == pytest.approx(abs(means["a"][1] - means["b"][1]))
    assert found.amplification == pytest.approx(found.gap_after - found.gap_before)
    assert 0 < found.low < found.amplification < found.high
    same = group_errors(before, before, groups)
    assert same is not None
    assert (same.low, same.high) == (0.0, 0.0)
    assert group_errors(before[:304], after[:304], groups[np.r_[:300, 600:604]]) is None
