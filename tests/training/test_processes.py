"""Two processes on CPUs train one network, and it is the one that a single process gives."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from safetensors.torch import load_file  # noqa: E402
from support import warm  # noqa: E402
from support.together import Together, run_together  # noqa: E402
from support.train_in_child import main, supernet, until_stalled  # noqa: E402
from support.warm import Running  # noqa: E402

from compressctl.training.data import TensorBatch  # noqa: E402
from compressctl.training.processes import Processes  # noqa: E402

GENTLE: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 64,
    "learning_rate": 0.001,
    "momentum": 0.0,
    "augment": {"crop_padding": 1},
    "mixup": 0.2,
    "ema_decay": 0.9,
    "clip_norm": 1.0,
    "checkpoint": "last",
}
"""Small steps: larger ones turn another order of summation into other weights within an epoch, in one process too."""


def finish(*processes: Running) -> dict[str, Any]:
    """What the first one says."""
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    facts: dict[str, Any] = json.loads(processes[0].said.read_text().splitlines()[-1])
    return facts


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    from compressctl.sources.builtin import untrained

    alone = warm.start(main, (None, tmp_path / "one", GENTLE), tmp_path, {**os.environ, "OMP_NUM_THREADS": "1"})
    facts_of_one = finish(alone)
    facts_of_two = finish(*run_together(2, main, (None, tmp_path / "two", GENTLE), tmp_path, os.environ))
    one, two = (load_file(tmp_path / name) for name in ("one", "two"))
    assert facts_of_two["processes"] == 2
    assert facts_of_two["loss"] == pytest.approx(facts_of_one["loss"], rel=1e-5)
    torch.manual_seed(1)
    start = untrained("digits-resnet").state_dict()
    for name, value in start.items():
        if name.endswith("num_batches_tracked"):
            assert torch.equal(one[f"0.{name}"], two[f"0.{name}"])
            continue
        moved = (one[f"0.{name}"] - value).norm()
        apart = (one[f"0.{name}"] - two[f"0.{name}"]).norm()
        assert apart <= 1e-2 * moved + 1e-6, name


def test_a_supernet_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    params = {**GENTLE, "epochs": 1, "mixup": 0.0}
    alone = warm.start(supernet, (tmp_path / "one", params), tmp_path, {**os.environ, "OMP_NUM_THREADS": "1"})
    of_one = finish(alone)
    of_two = finish(*run_together(2, supernet, (tmp_path / "two", params), tmp_path, os.environ))
    assert of_two["processes"] == 2
    assert of_two["loss"] == pytest.approx(of_one["loss"], rel=1e-5)
    one, two = (load_file(tmp_path / name) for name in ("one", "two"))
    for name, value in one.items():
        if value.is_floating_point():
            assert (value - two[name]).norm() <= 1e-3 * value.norm() + 1e-6, name


def test_two_processes_that_were_killed_resume_to_the_same_bits(tmp_path: Path) -> None:
    params = {**GENTLE, "optimizer": "adamw", "momentum": 0.9}
    kept = tmp_path / "kept"
    with Together(2, main, (kept, tmp_path / "never", params), tmp_path, {**os.environ, "STALL": "13"}) as killed:
        until_stalled(*killed)
    for checkpoints, name in ((kept, "resumed"), (None, "unbroken")):
        facts = finish(*run_together(2, main, (checkpoints, tmp_path / name, params), tmp_path, os.environ))
        # Several processes keep what they have at the end of an epoch, of nine steps here.
        assert facts.get("resumed_at_step") == (9 if checkpoints else None)
    one, two = (load_file(tmp_path / name) for name in ("resumed", "unbroken"))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize("size", [2, 3, 7, 64])
def test_the_parts_of_a_batch_are_the_batch(size: int) -> None:
    batch = TensorBatch((torch.arange(size),), torch.arange(size) * 2)
    parts = [Processes(index, 2, torch.device("cpu")).part(batch) for index in range(2)]
    assert torch.cat([part.inputs[0] for part, _ in parts]).tolist() == list(range(size))
    assert torch.cat([part.labels for part, _ in parts if part.labels is not None]).tolist() == [
        2 * i for i in range(size)
    ]
    assert sum(share for _, share in parts) == pytest.approx(1)


def test_a_batch_with_fewer_samples_than_processes_is_worked_on_by_all() -> None:
    part, share = Processes(1, 2, torch.device("cpu")).part(TensorBatch((torch.ones(1, 3),), None))
    assert (len(part), share) == (1, 0.5)
