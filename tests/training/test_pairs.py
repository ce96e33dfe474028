"""Samples that belong together stay together, whoever reads them in whatever order."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.core.data import Batch, ShapesDifferError, Split, Tuples, parts_of, tuples_of
from compressctl.core.errors import UsageError
from compressctl.core.events import Events
from compressctl.core.needs import Need, Needs
from compressctl.core.source import SplitSizes
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.core.undeclared import DeclaredData
from compressctl.sources.dataset import PositionSplit, SplitDataset
from compressctl.sources.sanity import CheckedDataset
from compressctl.sources.splits import Splits, choose

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from compressctl.core.model import Signature, TensorSpec, TorchModel  # noqa: E402
from compressctl.training.batchnorm_recalibration import recalibrate_bn  # noqa: E402
from compressctl.training.data import TensorBatch, tensor_batches  # noqa: E402
from compressctl.training.hooks import Hook  # noqa: E402
from compressctl.training.in_memory import HeldDataset  # noqa: E402
from compressctl.training.loop import train  # noqa: E402
from compressctl.training.params import TrainingParams  # noqa: E402
from compressctl.training.preflight import check_batch_size  # noqa: E402
from compressctl.training.processes import Processes  # noqa: E402

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 1)),), ())


def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    return {"x": positions[:, None].astype(np.float32)}, (positions // 2).astype(np.float32)


def dataset(pairs: int, train: int | None = None, size: int = 2) -> SplitDataset:
    sizes = SplitSizes(test=0, validation=0, calibration=0, train=train)
    chosen = choose(pairs, sizes, seed=0).train
    positions = (size * chosen[:, None] + np.arange(size)).reshape(-1)
    nothing = np.empty(0, np.int64)
    return SplitDataset(None, Splits(positions, nothing, nothing, nothing), read, tuples=Tuples(size))


def as_it_is(data: SplitDataset) -> Split:
    return data.split("train")


def held(data: SplitDataset) -> Split:
    return HeldDataset(data).split("train")


def checked(data: SplitDataset) -> Split:
    return CheckedDataset(data, "embedding").split("train")


def as_a_stage_gets_it(data: SplitDataset) -> Split:
    return HeldDataset(
        DeclaredData(CheckedDataset(data, "embedding"), Needs.of(Need.TRAINING_DATA, Need.LABELS), "finetune")
    ).split("train")


def without_labels(data: SplitDataset) -> Split:
    return DeclaredData(data, Needs.of(Need.TRAINING_DATA), "distill.logits").split("train")


READERS = [as_it_is, held, checked, as_a_stage_gets_it, without_labels]


@pytest.mark.parametrize("reader", READERS)
@given(
    pairs=st.integers(1, 40),
    limit=st.integers(1, 40),
    batch_size=st.integers(1, 30),
    seed=st.integers(0, 2**32),
    size=st.integers(2, 4),
)
def test_a_tuple_is_never_parted(reader, pairs: int, limit: int, batch_size: int, seed: int, size: int) -> None:
    split = reader(dataset(pairs, min(limit, pairs), size))
    batches = [batch.indices for batch in split.batches(batch_size, shuffle_seed=seed)]

    assert all(len(batch) <= max(size, batch_size) for batch in batches)
    rows = np.concatenate([batch.reshape(-1, size) for batch in batches])
    assert (rows // size == rows[:, :1] // size).all()
    assert (rows % size == np.arange(size)).all()
    assert len({int(row[0]) for row in rows}) == len(rows) == min(limit, pairs)


@pytest.mark.parametrize("reader", READERS)
@given(batch_size=st.integers(1, 12), seed=st.one_of(st.none(), st.integers(0, 99)))
def test_tensors_come_in_whole_pairs_in_any_order(reader, batch_size: int, seed: int | None) -> None:
    split = reader(dataset(13))
    batches = list(tensor_batches(split, SIGNATURE, batch_size, shuffle_seed=seed))

    assert all(batch.tuples == Tuples(2) for batch in batches)
    assert all(torch.equal(batch.inputs[0][::2] + 1, batch.inputs[0][1::2]) for batch in batches)
    assert len({len(batch) for batch in batches[:-1]}) <= 1
    assert sum(map(len, batches)) == 26


def test_pairs_come_in_another_order_by_every_seed_and_the_same_by_one() -> None:
    split = dataset(50).split("train")
    first, again, other = (
        np.concatenate([batch.indices for batch in split.batches(8, shuffle_seed=seed)]) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, np.sort(first))


def test_in_their_own_order_samples_come_in_the_size_that_was_asked_for() -> None:
    split = dataset(5).split("train")
    assert [len(batch.indices) for batch in split.batches(3)] == [3, 3, 3, 1]


def test_samples_that_stand_alone_are_shuffled_as_before() -> None:
    expected = np.random.default_rng(7).permutation(np.arange(10))
    assert np.array_equal(np.concatenate(list(parts_of(np.arange(10), 3, 7))), expected)
    assert [len(part) for part in parts_of(np.arange(10), 3, 7)] == [3, 3, 3, 1]


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(UsageError, match="5 samples are no whole tuples of 2"):
        list(parts_of(np.arange(5), 2, 0, Tuples(2)))


def test_pairs_of_different_shapes_are_read_pair_by_pair() -> None:
    def of_lengths(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], None]:
        if len({int(position) // 2 for position in positions}) > 1:
            raise ShapesDifferError("lengths differ")
        return {"x": np.zeros((len(positions), 1 + positions[0] // 2), np.float32)}, None

    split = PositionSplit(np.arange(8), of_lengths, tuples=Tuples(2))
    batches = list(split.batches(6, shuffle_seed=0))
    assert [len(batch.indices) for batch in batches] == [2, 2, 2, 2]
    assert all(batch.indices[0] + 1 == batch.indices[1] for batch in batches)


def test_a_split_that_says_nothing_holds_samples_that_stand_alone() -> None:
    class Plain:
        def __len__(self) -> int:
            return 4

        def batches(self, size: int, *, shuffle_seed: int | None = None):
            yield Batch({"x": np.zeros((4, 1), np.float32)}, None, np.arange(4))

    assert tuples_of(Plain()) == Tuples(1)


@pytest.mark.parametrize("pairs", [1, 2, 3, 7])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_batch_out_by_whole_pairs(pairs: int, processes: int) -> None:
    batch = TensorBatch((torch.arange(2 * pairs),), torch.arange(2 * pairs) // 2, tuples=Tuples(2))
    parts = [Processes(index, processes, torch.device("cpu")).part(batch) for index in range(processes)]

    assert all(len(part) % 2 == 0 and part.inputs[0][0] % 2 == 0 and part.tuples == Tuples(2) for part, _ in parts)
    assert sum(share for _, share in parts) == pytest.approx(1)
    if pairs >= processes:
        assert torch.cat([part.inputs[0] for part, _ in parts]).tolist() == list(range(2 * pairs))


def test_statistics_of_norms_are_taken_over_all_batches_of_whole_pairs() -> None:
    network = nn.Sequential(nn.BatchNorm1d(1))
    recalibrate_bn(network, dataset(32).split("train"), SIGNATURE, batch_size=9)
    assert network[0].num_batches_tracked == 8
    assert network[0].running_mean.item() == pytest.approx(31.5)


def test_a_training_has_as_many_steps_as_there_are_batches_of_whole_pairs(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    class Steps(Hook):
        def after_step(self, network, moment) -> None:
            told.append((moment.step, moment.steps))

    signature = Signature(SIGNATURE.inputs, (TensorSpec("y", "float32", ("batch", 3)),))
    model = TorchModel(nn.Linear(1, 3), signature)
    run = RunContext(0, Events(), tmp_path, Target("onnxruntime"), dataset(13), task="embedding")
    params = TrainingParams(epochs=2, batch_size=9, learning_rate=1e-6)

    def objective(network, batch):
        assert torch.equal(batch.inputs[0][::2] + 1, batch.inputs[0][1::2])
        return network(*batch.inputs).square().mean() * 1e-6

    train(model, objective, params, run, [Steps()])
    assert told[-1] == (7, 8)


@pytest.mark.parametrize(
    ("batch_size", "processes", "message"),
    [
        (1, 1, "less than a whole tuple"),
        (3, 1, "a single pair, and"),
        (4, 1, ""),
        (7, 2, "a single pair for each of 2"),
        (8, 2, ""),
    ],
)
def test_a_batch_must_hold_pairs_to_rank_in_every_process(
    tmp_path: Path, batch_size: int, processes: int, message: str
) -> None:
    params = TrainingParams(batch_size=batch_size)
    data = dataset(13)
    run = RunContext(0, Events(), tmp_path, Target("onnxruntime"), data, task="embedding", processes=processes)
    if not message:
        check_batch_size(params, data.split("train"), run)
        return
    with pytest.raises(UsageError, match=message):
        check_batch_size(params, data.split("train"), run)
