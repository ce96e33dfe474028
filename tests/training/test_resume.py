"""A training that is really killed goes on to the same bits."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from safetensors.torch import load_file  # noqa: E402
from support import warm  # noqa: E402
from support.train_in_child import main, until_stalled  # noqa: E402
from support.warm import Running  # noqa: E402

from compressctl.training.checkpoint import read_checkpoint, weights_digest, write_checkpoint  # noqa: E402

STEPS_PER_EPOCH = 9
PLAIN: dict[str, Any] = {"epochs": 3, "batch_size": 64, "learning_rate": 0.05}
EVERYTHING: dict[str, Any] = {
    **PLAIN,
    "optimizer": "adamw",
    "learning_rate": 0.003,
    "precision": "bfloat16",
    "ema_decay": 0.9,
    "mixup": 0.2,
    "augment": {"crop_padding": 1, "cutout": 2},
    "clip_norm": 1.0,
    "dropout": 0.3,
    "recalibrate_bn": True,
}


def start(checkpoints: Path | None, weights: Path, params: dict[str, Any], **more: str) -> Running:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return warm.start(main, (checkpoints, weights, params), weights.parent, environment)


def finish(process: Running) -> dict[str, Any]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    facts: dict[str, Any] = json.loads(out.splitlines()[-1])
    return facts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "step"),
    [(PLAIN, 2 * STEPS_PER_EPOCH), (EVERYTHING, STEPS_PER_EPOCH + 4)],
    ids=["at an epoch's first step", "within an epoch, with everything on"],
)
def test_a_killed_training_resumes_to_the_same_bits(tmp_path: Path, params: dict[str, Any], step: int) -> None:
    unbroken = start(None, tmp_path / "unbroken.safetensors", params)
    killed = start(tmp_path / "kept", tmp_path / "never.safetensors", params, STALL=str(step))
    until_stalled(killed)
    killed.kill()
    assert not (tmp_path / "never.safetensors").exists()
    expected = finish(unbroken)

    facts = finish(start(tmp_path / "kept", tmp_path / "resumed.safetensors", params))
    assert facts["resumed_at_step"] == step
    assert facts["loss"] == expected["loss"]
    assert facts["validation_by_epoch"] == expected["validation_by_epoch"]
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("unbroken", "resumed"))
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.safetensors"
    assert read_checkpoint(path) is None
    path.parent.mkdir()
    write_checkpoint(path, {"a": torch.arange(4.0), "b": torch.ones(2, 3).T}, {"step": 3, "loss": [0.1]})
    tensors, facts = read_checkpoint(path) or ({}, {})
    assert tensors["b"].shape == (3, 2)
    assert facts == {"step": 3, "loss": [0.1]}
    path.write_bytes(path.read_bytes()[:-3])
    assert read_checkpoint(path) is None


def test_a_digest_tells_weights_apart() -> None:
    network = torch.nn.Linear(3, 2)
    first = weights_digest(network)
    assert weights_digest(copy.deepcopy(network)) == first
    with torch.no_grad():
        network.weight[0, 0] += 1e-3
    assert weights_digest(network) != first
    assert weights_digest(torch.nn.Linear(3, 3)) != weights_digest(torch.nn.Linear(3, 2, bias=False))


@pytest.mark.slow
def test_a_training_that_starts_from_other_weights_does_not_go_on_with_these(tmp_path: Path) -> None:
    finish(start(tmp_path / "kept", tmp_path / "one.safetensors", {**PLAIN, "epochs": 1}))
    path = tmp_path / "kept" / "training.safetensors"
    tensors, facts = read_checkpoint(path)
    write_checkpoint(path, tensors, {**facts, "start": "of another network"})
    again = finish(start(tmp_path / "kept", tmp_path / "two.safetensors", {**PLAIN, "epochs": 1}))
    assert read_checkpoint(path)[1]["start"] == facts["start"]
    assert again["seconds"] != facts["seconds"]
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.slow
def test_a_training_that_ended_is_not_repeated_when_its_stage_is(tmp_path: Path) -> None:
    first = finish(start(tmp_path / "kept", tmp_path / "one.safetensors", {**PLAIN, "epochs": 1}))
    second = finish(start(tmp_path / "kept", tmp_path / "two.safetensors", {**PLAIN, "epochs": 1}))
    assert first["seconds"] == second["seconds"]
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
