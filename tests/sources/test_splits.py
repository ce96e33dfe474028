import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.splits import Splits, check_apart, choose

NAMES = ("train", "validation", "calibration", "test")
seeds = st.integers(0, 2**32 - 1)


def shares(most: int) -> st.SearchStrategy[int | float]:
    return st.one_of(st.integers(0, most), st.floats(0, 0.3))


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, SplitSizes, int, int]:
    samples = draw(st.integers(10, 500))
    sizes = SplitSizes(
        validation=draw(shares(samples // 4)),
        calibration=draw(shares(samples // 4)),
        test=draw(st.none() | shares(samples // 4)),
    )
    return samples, sizes, draw(st.integers(0, 50)), draw(st.sampled_from([0, 200]))


def all_positions(splits: Splits) -> np.ndarray:
    return np.concatenate([splits.of(name) for name in NAMES])


@given(requests(), seeds)
def test_no_sample_is_in_two_splits_and_every_one_exists(request, seed):
    samples, sizes, own_validation, own_test = request
    positions = all_positions(choose(samples, sizes, seed, own_validation=own_validation, own_test=own_test))
    assert len(np.unique(positions)) == len(positions)
    assert positions.min() >= 0
    assert positions.max() < samples + own_validation + own_test


@given(requests(), seeds)
def test_what_nobody_takes_is_for_training(request, seed):
    samples, sizes, _, _ = request
    assert sorted(all_positions(choose(samples, sizes, seed))) == list(range(samples))


@given(requests(), seeds)
def test_the_same_seed_gives_the_same_splits(request, seed):
    samples, sizes, own_validation, own_test = request
    first, second = (choose(samples, sizes, seed, own_validation=own_validation, own_test=own_test) for _ in range(2))
    assert all(np.array_equal(first.of(name), second.of(name)) for name in NAMES)


@given(requests(), seeds)
def test_an_own_test_split_is_the_only_source_of_test_samples(request, seed):
    samples, sizes, own_validation, _ = request
    splits = choose(samples, sizes, seed, own_validation=own_validation, own_test=200)
    assert (splits.test >= samples + own_validation).all()
    assert (np.concatenate([splits.train, splits.calibration]) < samples).all()


def test_another_seed_gives_other_splits():
    assert not np.array_equal(
        choose(100, SplitSizes(calibration=10), 0).test, choose(100, SplitSizes(calibration=10), 1).test
    )


def test_whole_numbers_count_samples_and_shares_are_of_the_whole():
    splits = choose(200, SplitSizes(validation=0.25, calibration=30, test=7), 0)
    assert [len(splits.of(name)) for name in NAMES] == [200 - 50 - 30 - 7, 50, 30, 7]


def test_without_an_own_test_split_a_fifth_is_kept_for_the_test():
    assert len(choose(200, SplitSizes(calibration=10), 0).test) == 40


def test_an_own_test_split_is_used_whole_and_in_its_order():
    assert choose(50, SplitSizes(calibration=5), 3, own_test=20).test.tolist() == list(range(50, 70))


def test_part_of_an_own_test_split_is_drawn_at_random():
    test = choose(50, SplitSizes(calibration=5, test=0.5), 3, own_test=20).test
    assert len(test) == 10
    assert test.tolist() != list(range(50, 60))


def test_an_own_validation_split_is_used_whole():
    assert choose(50, SplitSizes(calibration=5), 3, own_validation=8).validation.tolist() == list(range(50, 58))


def test_another_calibration_size_leaves_test_and_validation_alone():
    small, large = (choose(500, SplitSizes(calibration=count), 0) for count in (10, 100))
    assert np.array_equal(small.test, large.test)
    assert np.array_equal(small.validation, large.validation)


def test_sizes_that_do_not_fit_are_an_error_that_adds_them_up():
    with pytest.raises(UsageError, match=r"320 samples \(test 20, calibration 300\) but there are 100"):
        choose(100, SplitSizes(validation=0, calibration=300), 0)


def test_the_default_calibration_takes_half_of_what_is_left_of_few():
    dealt = choose(100, SplitSizes(), 0)
    assert [len(dealt.of(name)) for name in ("test", "validation", "calibration", "train")] == [20, 10, 35, 35]
    assert len(choose(1000, SplitSizes(), 0).calibration) == 300


def test_more_test_samples_than_the_dataset_keeps_is_an_error():
    with pytest.raises(UsageError, match="asks for 30 samples but the dataset's own test split has 20"):
        choose(100, SplitSizes(calibration=5, test=30), 0, own_test=20)


def test_a_number_that_is_neither_count_nor_share_is_an_error():
    with pytest.raises(UsageError, match="write 2 for that many samples"):
        choose(100, SplitSizes(calibration=1.5), 0)


def test_training_samples_can_be_limited() -> None:
    whole, few, more = (choose(100, SplitSizes(train=train), 0) for train in (None, 10, 0.2))
    assert len(few.train) == 10
    assert np.array_equal(few.train, whole.train[:10])
    assert np.array_equal(more.train[:10], few.train)
    assert all(np.array_equal(few.of(name), whole.of(name)) for name in ("validation", "calibration", "test"))


def test_an_own_validation_split_is_used_whole_unless_the_recipe_limits_it() -> None:
    assert np.array_equal(choose(50, SplitSizes(), 0, own_validation=20).validation, np.arange(50, 70))
    limited = choose(50, SplitSizes(validation=5), 0, own_validation=20).validation
    assert len(np.unique(limited)) == 5
    assert limited.min() >= 50
    assert len(choose(50, SplitSizes(validation=21), 0, own_validation=20).validation) == 20


@given(
    st.integers(0, 300),
    st.integers(2, 200),
    st.integers(1, 150) | st.floats(0.01, 0.9),
    st.none() | st.integers(0, 50),
    seeds,
)
def test_samples_of_the_own_test_split_can_choose(
    samples: int, own_test: int, validation: int | float, test: int | None, seed: int
) -> None:
    sizes = SplitSizes(validation=validation, test=test, calibration=min(10, samples), validation_from="test")
    taken = validation if isinstance(validation, int) else round(validation * own_test)
    if (taken and taken >= own_test) or (test or 0) > own_test - taken:
        with pytest.raises(UsageError, match=r"own test split|none are left"):
            choose(samples, sizes, seed, own_test=own_test)
        return
    splits = choose(samples, sizes, seed, own_test=own_test)
    assert len(splits.validation) == taken
    assert all(splits.validation >= samples)
    assert all(splits.test >= samples)
    assert len(splits.test) == (own_test - taken if test is None else test)
    positions = all_positions(splits)
    assert len(np.unique(positions)) == len(positions)
    assert sorted([*splits.train, *splits.calibration]) == list(range(samples)), "all others are for training"


@pytest.mark.parametrize(
    ("own_validation", "own_test", "why"), [(5, 20, "validation split of their own"), (0, 0, "no test split")]
)
def test_validation_from_a_test_split_needs_one(own_validation: int, own_test: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        choose(100, SplitSizes(validation_from="test"), 0, own_validation=own_validation, own_test=own_test)


def test_a_link_to_a_file_of_another_split_is_the_same_file(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="two of the data's own splits"):
        check_apart([tmp_path / "a.txt"], [tmp_path / "b.txt"])
