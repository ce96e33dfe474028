"""How windows of running text are dealt to splits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compressctl.core.source import SplitSizes
from compressctl.sources.splits import Splits
from compressctl.sources.text_blocks import dealt

SPLITS = ("train", "validation", "calibration", "test")


def owners(splits: Splits) -> dict[int, str]:
    """Of each window that a split took. Fails where two did."""
    found: dict[int, str] = {}
    for name in SPLITS:
        for position in splits.of(name).tolist():
            assert position not in found
            found[position] = name
    return found


@settings(max_examples=300, deadline=None)
@given(
    counts=st.lists(st.integers(0, 60) | st.integers(100, 900), min_size=1, max_size=5),
    overlapped=st.integers(0, 4),
    shares=st.tuples(*[st.floats(0, 0.3)] * 3),
    own_test=st.lists(st.integers(2, 20) | st.integers(50, 300), max_size=2),
    most=st.none() | st.floats(0.1, 0.9),
    from_test=st.booleans(),
)
def test_splits_share_no_window_and_stand_apart(counts, overlapped, shares, own_test, most, from_test):
    fewest = sum(max(0, count - 3 * overlapped) for count in counts)
    validation, calibration, test = shares
    validation_from = "test" if from_test and own_test else "train"
    sizes = SplitSizes(
        validation=validation,
        calibration=calibration,
        test=None if own_test else test,
        train=most,
        validation_from=validation_from,
    )
    if fewest < 10:
        return
    splits = dealt(counts, own_test, sizes, 0, overlapped)

    files = [*counts, *own_test]
    file_of = np.repeat(np.arange(len(files)), files)
    owner = owners(splits)
    assert max(owner, default=0) < sum(files)
    for position, name in owner.items():
        assert name == "test" or position < sum(counts) or (name == "validation" and validation_from == "test")
        for near in range(position + 1, min(position + overlapped + 1, len(file_of))):
            assert file_of[position] != file_of[near] or owner.get(near, name) == name
    if own_test and validation_from == "train":
        assert len(splits.test) == sum(own_test)
    if most is None:
        left_out = 0.1 * sum(files) + 4 * overlapped * len(files)
        assert len(owner) >= sum(files) - (left_out if overlapped else 0)


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(600, 3000), min_size=1, max_size=3),  # of several places each, at any stride here
    calibration=st.integers(16, 60),
    train=st.none() | st.integers(16, 500),
    overlapped=st.integers(0, 2),
)
def test_every_split_is_of_the_whole_text(counts, calibration, train, overlapped):
    """However few of its windows a split takes: a file of two kinds of text is calibrated on both."""
    splits = dealt(
        counts, [], SplitSizes(validation=0.05, calibration=calibration, test=0.05, train=train), 0, overlapped
    )
    for name in SPLITS:
        taken = splits.of(name) / sum(counts)
        spread = np.histogram(taken, 4, (0, 1))[0] / len(taken)
        assert spread.min() > 1 / 16, name  # a quarter may hold one place of five, and its part of 17 windows be two
        # The first of them are from everywhere, too: techniques look at so many.
        assert len(taken) < 16 or np.ptp(taken[:16]) > 0.25


def test_a_limited_split_takes_the_same_windows_again():
    sizes = SplitSizes(validation=16, calibration=64, test=16, train=100)
    first, again = (dealt([2412], [], sizes, 3, 0) for _ in range(2))
    assert all((first.of(name) == again.of(name)).all() for name in SPLITS)
    assert [len(first.of(name)) for name in SPLITS] == [100, 16, 64, 16]
