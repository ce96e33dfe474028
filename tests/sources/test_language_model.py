"""Data of language models: where labels come from, what padding does, and which labels are refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.core.data import Batch, Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.recipe.schema import DataSection
from compressctl.sources.labels import as_labels
from compressctl.sources.language_model import labels_of, language_model_data, tokens_of
from compressctl.sources.load import load_dataset
from compressctl.sources.params import NpzParams

TEXT = (np.random.default_rng(0).integers(0, 50, (60, 9))).astype(np.int64)


def loaded(folder: Path, task: str | None = "language-model", **arrays: np.ndarray) -> Dataset:
    np.savez(folder / "text.npz", **arrays)  # type: ignore[arg-type]
    params = NpzParams(path="text.npz", labels="labels" if "labels" in arrays else None)
    return load_dataset(DataSection("npz", params, SplitSizes(calibration=10)), folder, 0, task)  # type: ignore[arg-type]


def batch(labels: np.ndarray | None = None, **inputs: np.ndarray) -> Batch:
    return Batch(inputs, labels, np.arange(len(next(iter(inputs.values())))))


@pytest.mark.parametrize("split", ["train", "validation", "calibration", "test"])
def test_without_labels_the_tokens_are_the_labels(tmp_path: Path, split: str) -> None:
    dataset = loaded(tmp_path, inputs=TEXT)
    found = next(dataset.split(split).batches(5))  # type: ignore[arg-type]
    assert found.labels is not None
    assert np.array_equal(found.labels, TEXT[found.indices])
    assert dataset.classes is None


def test_labels_that_are_the_tokens_stay_and_may_ignore_some(tmp_path: Path) -> None:
    labels = TEXT.copy()
    labels[:, :4] = -100
    found = next(loaded(tmp_path, inputs=TEXT, labels=labels).split("test").batches(5))
    assert np.array_equal(found.labels, labels[found.indices])


def test_other_tasks_keep_what_the_data_gives(tmp_path: Path) -> None:
    assert next(loaded(tmp_path, "regression", inputs=TEXT).split("test").batches(5)).labels is None


@pytest.mark.parametrize("ignored", [0, 1, 3])
def test_labels_that_are_shifted_already_are_refused(tmp_path: Path, ignored: int) -> None:
    labels = TEXT[:, 1:].copy()
    labels[:, :ignored] = -100
    with pytest.raises(UsageError, match=r"shifted already.*are the tokens themselves") as refused:
        loaded(tmp_path, inputs=TEXT[:, :-1], labels=labels)
    assert refused.value.hint
    assert "give the input tokens as labels, or none" in refused.value.hint


def test_shifted_labels_whose_end_is_filled_up_are_refused_too(tmp_path: Path) -> None:
    labels = np.concatenate([TEXT[:, 1:], np.full((len(TEXT), 1), -100)], axis=1)
    with pytest.raises(UsageError, match="shifted already"):
        loaded(tmp_path, inputs=TEXT, labels=labels)


def test_a_text_of_one_repeated_token_is_no_shifted_one(tmp_path: Path) -> None:
    same = np.full((60, 9), 3)
    assert next(loaded(tmp_path, inputs=same, labels=same).split("test").batches(5)).labels is not None


def test_labels_that_are_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are not the tokens") as refused:
        loaded(tmp_path, inputs=TEXT, labels=(TEXT + 7) % 50)
    assert "masked tokens" in str(refused.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (TEXT[:, 0], r"in their shape: \[\d+, 9\], and these are \[\d+\]"),
        (TEXT[:, :-1], r"in their shape: \[\d+, 9\], and these are \[\d+, 8\]"),
        (TEXT.astype(np.float32), "whole numbers, and these are float32"),
    ],
)
def test_labels_of_another_shape_or_type_are_refused(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loaded(tmp_path, inputs=TEXT, labels=labels)


@given(st.integers(0, 5), st.integers(0, 3))
def test_padding_on_either_side_counts_nowhere(left: int, right: int) -> None:
    mask = np.ones((4, 9), np.int64)
    mask[:, :left] = 0
    mask[:, 9 - right :] = 0
    found = labels_of(batch(input_ids=TEXT[:4], attention_mask=mask))
    assert found is not None
    # A token counts where it and the one before it, whose logits predict it, are both there.
    counted = [(mask[0, t] and mask[0, t - 1]) for t in range(1, 9)]
    assert np.array_equal(found[:, 1:] != -100, np.tile(counted, (4, 1)).astype(bool))
    assert np.array_equal(found[:, 1:][:, np.array(counted, bool)], TEXT[:4, 1:][:, np.array(counted, bool)])


def test_tokens_are_found_by_name_or_as_the_only_whole_numbers() -> None:
    mask, values = np.ones_like(TEXT), TEXT.astype(np.float32)
    assert tokens_of({"other": mask, "input_ids": TEXT}) is TEXT
    assert tokens_of({"attention_mask": mask, "position_ids": mask, "text": TEXT, "values": values}) is TEXT
    assert tokens_of({"attention_mask": mask, "values": values}) is None
    assert labels_of(batch(values=values)) is None


def test_a_single_label_below_zero_is_still_no_class() -> None:
    with pytest.raises(UsageError, match="negative class, -100"):
        as_labels(np.array([0, 1, -100]), "here")
    with pytest.raises(UsageError, match="negative class, -1"):
        as_labels(np.array([[0, 1], [-100, -1]]), "here")


def test_every_split_is_looked_at(tmp_path: Path) -> None:
    """Only the test part is shifted."""
    np.savez(tmp_path / "text.npz", inputs=TEXT, labels=TEXT, more=TEXT[:, :-1], following=TEXT[:, 1:])
    params = NpzParams(path="text.npz", test_inputs="more", test_labels="following")
    section = DataSection("npz", params, SplitSizes(calibration=10))
    with pytest.raises(UsageError, match="the test split are shifted already"):
        load_dataset(section, tmp_path, 0, "language-model")


def test_a_dataset_of_ones_own_is_completed_too(tmp_path: Path) -> None:
    own = loaded(tmp_path, None, inputs=TEXT)
    assert next(language_model_data(own).split("test").batches(5)).labels is not None
