"""Two processes on CPUs train one network, and it is the one that a single process gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from safetensors.torch import load_file  # noqa: E402

from compressctl.training.data import TensorBatch  # noqa: E402
from compressctl.training.processes import Processes  # noqa: E402

CHILD = Path(__file__).parent / "train_in_child.py"
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
"""`--standalone` lets the system choose a port and listens on it at once: nobody can take it in between."""
GENTLE: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 64,
    "learning_rate": 0.001,
    "momentum": 0.0,
    "augment": {"crop": 1},
    "mixup": 0.2,
    "average": 0.9,
    "clip_norm": 1.0,
    "keep": "last",
}
"""Small steps: larger ones turn another order of summation into other weights within an epoch, in one process too."""


def train(folder: Path, name: str, launch: list[str]) -> tuple[dict[str, "torch.Tensor"], dict[str, Any]]:
    command = [sys.executable, *launch, str(CHILD), "none", str(folder / name), json.dumps(GENTLE)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(folder / name), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    from compressctl.sources.builtin import untrained

    one, facts_of_one = train(tmp_path, "one.safetensors", [])
    two, facts_of_two = train(tmp_path, "two.safetensors", LAUNCH)
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


@pytest.mark.slow
def test_two_processes_that_were_killed_resume_to_the_same_bits(tmp_path: Path) -> None:
    params = json.dumps({**GENTLE, "optimizer": "adamw", "momentum": 0.9})

    def start(checkpoints: str, weights: str, **more: str) -> "subprocess.Popen[str]":
        command = [sys.executable, *LAUNCH, str(CHILD), checkpoints, weights, params]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)

    killed = start("kept", "never.safetensors", STALL="13")
    assert killed.stdout is not None
    assert sorted(killed.stdout.read(2 * len("stalled\n"))) == sorted(2 * "stalled\n")
    for process in [*psutil.Process(killed.pid).children(recursive=True), psutil.Process(killed.pid)]:
        process.kill()
    killed.wait()
    for checkpoints, name in (("kept", "resumed.safetensors"), ("none", "unbroken.safetensors")):
        out, _ = start(checkpoints, name).communicate()
        # Several processes keep what they have at the end of an epoch, of nine steps here.
        assert json.loads(out.splitlines()[-1]).get("resumed_at_step") == (9 if checkpoints == "kept" else None)
    one, two = (load_file(tmp_path / name) for name in ("resumed.safetensors", "unbroken.safetensors"))
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
