from collections.abc import Iterator

import numpy as np
import pytest

from compressctl.core.data import Batch
from compressctl.training.in_memory import HeldDataset, hold


class Counted:
    """A split of `n` samples that counts how many were read."""

    def __init__(self, n: int) -> None:
        self.n, self.read = n, 0

    def __len__(self) -> int:
        return self.n

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        order = np.arange(self.n)
        if shuffle_seed is not None:
            order = np.random.default_rng(shuffle_seed).permutation(order)
        for start in range(0, self.n, size):
            chosen = order[start : start + size]
            self.read += len(chosen)
            groups = np.array(["ab"[i % 2] for i in chosen])
            yield Batch({"x": chosen[:, None].astype(np.float32)}, chosen * 2, chosen + 100, groups)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_held_split_gives_the_same_batches_and_reads_once(seed: int | None) -> None:
    split = Counted(600)
    held = hold(split)
    for _ in range(3):
        got = list(held.batches(64, shuffle_seed=seed))
    assert split.read <= 600 + 256  # one batch to learn the size of a sample
    for mine, own in zip(got, Counted(600).batches(64, shuffle_seed=seed), strict=True):
        np.testing.assert_array_equal(mine.inputs["x"], own.inputs["x"])
        np.testing.assert_array_equal(mine.labels, own.labels)
        np.testing.assert_array_equal(mine.indices, own.indices)
        np.testing.assert_array_equal(mine.groups, own.groups)


def test_what_is_too_large_is_read_each_time() -> None:
    split = Counted(1000)
    held = hold(split, largest_bytes=1000)
    assert sum(len(batch.indices) for batch in held.batches(100)) == 1000
    before = split.read
    assert sum(len(batch.indices) for batch in held.batches(100)) == 1000
    assert split.read == before + 1000


def test_only_splits_that_are_read_often_are_held() -> None:
    class Data:
        classes = ("a", "b")

        def split(self, name: str) -> Counted:
            return Counted(5)

    held = HeldDataset(Data())
    assert held.split("train") is held.split("train")
    assert isinstance(held.split("test"), Counted)
    assert held.classes == ("a", "b")


class Given:
    """A split of these batches, as they are."""

    def __init__(self, batches: list[Batch]) -> None:
        self.given = batches

    def __len__(self) -> int:
        return sum(len(batch.indices) for batch in self.given)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        yield from self.given


def test_samples_of_different_lengths_are_not_joined() -> None:
    lengths = (3, 5)
    batches = [Batch({"x": np.ones((1, length))}, None, np.array([i])) for i, length in enumerate(lengths)]
    assert [batch.inputs["x"].shape for batch in hold(Given(batches)).batches(2)] == [(1, 3), (1, 5)]


def test_recorded_requests_stay_requests() -> None:
    # A streaming network's call: the state's samples lie along axis 1, the sampling rate is a scalar.
    call = {"audio": np.ones((1, 8)), "state": np.ones((2, 1, 4)), "rate": np.array(16000)}
    batches = [Batch(call, None, np.array([i]), is_request=True) for i in range(3)]
    for batch in hold(Given(batches)).batches(2):
        assert batch.is_request
        assert {name: array.shape for name, array in batch.inputs.items()} == {
            "audio": (1, 8),
            "state": (2, 1, 4),
            "rate": (),
        }


def test_constants_are_kept_once() -> None:
    table = np.arange(4.0)
    batches = [
        Batch({"x": np.ones((2, 3)), "table": table}, None, np.array([i, i + 1]), constants=frozenset({"table"}))
        for i in (0, 2)
    ]
    (batch,) = hold(Given(batches)).batches(4)
    assert batch.constants == {"table"}
    assert batch.inputs["x"].shape == (4, 3)
    np.testing.assert_array_equal(batch.inputs["table"], table)
