"""A network that was trained on the samples that shall choose is found out, and others choose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

from compressctl.core.data import Tuples, tuples_of  # noqa: E402
from compressctl.search.facts import read_facts  # noqa: E402
from compressctl.search.known_samples import _Some  # noqa: E402
from compressctl.search.search import _fairly_judged  # noqa: E402
from compressctl.search.subject import Asked, subject_of  # noqa: E402
from compressctl.sources.dataset import PositionSplit  # noqa: E402

NETWORK = """
from torch import nn

def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 2))
"""

RECIPE = """
recipe: compressctl/v1
name: wide
task: classification
model: {source: python, factory: net.py:wide, weights: wide.safetensors, input_shape: [32]}
data:
  source: npz
  path: data.npz
  inputs: train_x
  labels: train_y
TEST  validation: 200
  calibration: 50
stages: [{use: cast}]
"""


def samples(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """One label in five is wrong, which only who saw it can know."""
    inputs = rng.normal(size=(count, 32)).astype(np.float32)
    labels = (inputs[:, 0] > 0).astype(np.int64)
    wrong = rng.random(count) < 0.2
    return inputs, np.where(wrong, 1 - labels, labels)


def fitted(folder: Path, inputs: np.ndarray, labels: np.ndarray) -> None:
    """Until it knows them by heart."""
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    exec(NETWORK, namespace)
    network = namespace["wide"]()  # type: ignore[operator]
    optimizer = torch.optim.Adam(network.parameters(), 0.003)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(torch.from_numpy(inputs)), torch.from_numpy(labels)).backward()
        optimizer.step()
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "wide.safetensors")


def written(folder: Path, *, has_test: bool, is_trained_on_all: bool) -> str:
    rng = np.random.default_rng(0)
    train, test = samples(rng, 1000), samples(rng, 1000)
    arrays = {"train_x": train[0], "train_y": train[1]}
    if has_test:
        arrays |= {"test_x": test[0], "test_y": test[1]}
    np.savez(folder / "data.npz", **arrays)
    (folder / "net.py").write_text(NETWORK)
    own = "  test_inputs: test_x\n  test_labels: test_y\n" if has_test else ""
    (folder / "wide.yaml").write_text(RECIPE.replace("TEST", own))
    fitted(folder, *(train if is_trained_on_all else samples(rng, 1000)))
    return str(folder / "wide.yaml")


def test_samples_at_random_hold_whole_pairs() -> None:
    positions = np.arange(200)
    split = PositionSplit(positions, lambda chosen: ({"x": chosen[:, None]}, chosen // 2), tuples=Tuples(2))
    some = _Some(split, 100)
    read = np.concatenate([batch.indices for batch in some.batches(1)])
    assert tuples_of(some) == Tuples(2)
    assert len(read) == len(some)
    assert np.array_equal(read[::2] + 1, read[1::2])
    assert not np.array_equal(read, positions[:100])


def test_samples_that_the_original_knows_do_not_choose(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    recipe = written(tmp_path, has_test=True, is_trained_on_all=True)
    subject = subject_of(Asked(recipe), tmp_path / "out")
    facts = read_facts(subject.recipe(), None)
    assert facts.known is not None
    assert facts.known.validation > facts.known.test + 10
    fair, now = _fairly_judged(subject, facts, facts.known, None, ())
    assert now.known is None
    assert now.samples == {"train": 950, "validation": 200, "calibration": 50, "test": 800}
    assert fair.content["data"]["validation_from"] == "test"
    assert "200 samples of the test split choose instead" in fair.notes[-1]


def test_samples_that_it_never_saw_choose(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    recipe = written(tmp_path, has_test=True, is_trained_on_all=False)
    assert read_facts(subject_of(Asked(recipe), tmp_path / "out").recipe(), None).known is None


def test_samples_of_one_pool_are_dealt_alike(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    recipe = written(tmp_path, has_test=False, is_trained_on_all=True)
    assert read_facts(subject_of(Asked(recipe), tmp_path / "out").recipe(), None).known is None
