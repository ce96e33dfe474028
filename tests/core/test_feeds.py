"""Data as calls of a model: every sample once, in order, equal shapes together, as the model takes them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.core.data import Batch, bind
from compressctl.core.errors import UsageError
from compressctl.core.feeds import feeds, first_feeds, whole_feeds
from compressctl.core.model import Signature, TensorSpec


class _Stacked:
    """n samples of two inputs that share a number, as datasets give them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, self._count, size):
            at = np.arange(start, min(start + size, self._count))
            inputs = {
                "x": at[:, None].astype(np.float32),
                "state": np.stack([at, at], 1)[..., None],
                "sr": np.array(16),
            }
            yield Batch(inputs, at, at, constants=frozenset({"sr"}))


class _Recorded:
    """One call each, of these lengths."""

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for place, length in enumerate(self._lengths):
            yield Batch({"x": np.full((1, length), place, np.float32)}, None, np.array([place]), is_request=True)


def _stacked(batch: int | str) -> Signature:
    return Signature(
        (
            TensorSpec("x", "float32", (batch, 1)),
            TensorSpec("state", "int64", (2, batch, 1), 1),
            TensorSpec("sr", "int64", ()),
        ),
        (),
    )


OPEN = Signature((TensorSpec("x", "float32", ("N", "T")),), ())


@given(count=st.integers(0, 20), size=st.integers(1, 7), fixed=st.one_of(st.none(), st.integers(1, 5)))
def test_every_sample_comes_once_and_fills_the_batch(count: int, size: int, fixed: int | None) -> None:
    found = list(feeds(_Stacked(count), _stacked(fixed or "N"), size))
    assert [index for feed in found for index in feed.batch.indices] == list(range(count))
    for feed in found:
        samples = fixed or feed.count
        assert feed.inputs["x"].shape == (samples, 1)
        assert feed.inputs["state"].shape == (2, samples, 1)
        assert feed.inputs["sr"] == 16
        assert np.array_equal(feed.inputs["x"][: feed.count, 0], feed.batch.indices)
        assert np.array_equal(feed.inputs["state"][0, : feed.count, 0], feed.batch.indices)
    whole = list(whole_feeds(_Stacked(count), _stacked(fixed or "N"), size))
    assert all(feed.count == fixed for feed in whole) if fixed else len(whole) == len(found)


@given(lengths=st.lists(st.integers(1, 3), max_size=12), size=st.integers(1, 5))
def test_recorded_calls_stay_as_they_were_recorded(lengths: list[int], size: int) -> None:
    found = list(feeds(_Recorded(lengths), OPEN, size))
    assert [feed.inputs["x"].tolist() for feed in found] == [[[place] * length] for place, length in enumerate(lengths)]
    assert all(feed.count == 1 for feed in found)


def test_calls_of_several_samples_are_given_as_they_were_recorded() -> None:
    class Pairs(_Recorded):
        def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
            for place in range(3):
                yield Batch({"x": np.zeros((2, 4), np.float32)}, None, np.array([place]), is_request=True)

    found = list(feeds(Pairs([4, 4, 4]), OPEN, 8))
    assert [feed.inputs["x"].shape for feed in found] == [(2, 4)] * 3


def test_the_first_calls_hold_as_many_samples_as_were_asked_for() -> None:
    assert sum(feed.count for feed in first_feeds(_Stacked(20), _stacked("N"), 10, 4)) == 12
    assert sum(feed.count for feed in first_feeds(_Stacked(3), _stacked("N"), 10, 4)) == 3


@given(count=st.integers(0, 12), size=st.integers(1, 16), values=st.integers(1, 1 << 26), fixed=st.booleans())
def test_a_call_has_as_many_samples_as_outputs_take_memory_for(count: int, size: int, values: int, fixed: bool) -> None:
    signature = replace(_stacked(3 if fixed else "N"), outputs=(TensorSpec("y", "float32", ("N", values)),))
    found = list(feeds(_Stacked(count), signature, size))
    assert [index for feed in found for index in feed.batch.indices] == list(range(count))
    assert all(feed.count == 1 or 4 * feed.count * values <= 64 << 20 for feed in found) or fixed
    assert all(feed.count == size or 4 * 2 * feed.count * values > 32 << 20 for feed in found[:-1]) or fixed


def test_an_input_without_a_batch_axis_takes_one_sample_at_a_time() -> None:
    signature = Signature((TensorSpec("x", "float32", ("height",), None),), ())
    one = Batch({"x": np.ones((1, 5), np.float32)}, None, np.array([0]))
    assert bind(one, signature)["x"].shape == (5,)
    two = Batch({"x": np.ones((2, 5), np.float32)}, None, np.array([0, 1]))
    with pytest.raises(UsageError, match="no batch axis"):
        bind(two, signature)


def test_numbers_get_the_models_width_where_they_fit() -> None:
    signature = Signature((TensorSpec("x", "int32", ("N",)), TensorSpec("y", "float32", ("N",))), ())
    batch = Batch({"x": np.array([1, 2]), "y": np.array([0.5, 1.5])}, None, np.arange(2))
    assert {name: array.dtype.name for name, array in bind(batch, signature).items()} == {"x": "int32", "y": "float32"}
    large = Batch({"x": np.array([1 << 40]), "y": np.array([0.5])}, None, np.arange(1))
    assert bind(large, signature)["x"].dtype == np.int64  # left for the runtime to refuse, never wrapped


@pytest.mark.parametrize("is_request", [False, True])
@pytest.mark.parametrize("constants", [frozenset(), frozenset({"x"})])
def test_a_single_number_for_an_input_of_samples_is_refused_in_words(
    is_request: bool, constants: frozenset[str]
) -> None:
    batch = Batch({"x": np.array(3.0, np.float32)}, None, np.array([0]), constants=constants, is_request=is_request)
    with pytest.raises(UsageError, match="samples along axis 0, the data gives a single number"):
        bind(batch, Signature((TensorSpec("x", "float32", ("n", 1)),), ()))
