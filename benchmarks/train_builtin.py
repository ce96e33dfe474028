"""Train the built-in networks again: python benchmarks/train_builtin.py [NAME ...] [--check]

Trains on the default train split of the `digits` dataset, which does not follow any seed, so that the validation,
calibration and test samples stay unseen. The same seed on the same machine and torch version gives the same file.
About a minute per network on two cores. --check only scores the files that are there.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from compressctl.core.data import SplitName
from compressctl.core.source import SplitSizes
from compressctl.sources import builtin, digits
from compressctl.sources.params import DigitsParams

SEED = 0
EPOCHS = 120
BATCH = 64
PEAK_LEARNING_RATE = 4e-3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", default=builtin.NAMES, metavar="NAME")
    arguments.add_argument("--check", action="store_true", help="score the shipped weights, train nothing")
    chosen = arguments.parse_args()
    for name in chosen.names:
        network = builtin.untrained(name)
        path = builtin.weights_path(name)
        if not chosen.check:
            train(name, path)
        network.load_state_dict(load_file(path))
        report(name, network.eval(), path)


def train(name: str, path: Path) -> None:
    torch.manual_seed(SEED)
    images, labels = samples("train")
    network = builtin.untrained(name)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.02)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    network.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(network(distort(images[chosen])), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    path.parent.mkdir(exist_ok=True)
    save_file(network.state_dict(), path)


def distort(images: Tensor) -> Tensor:
    """Small random turns, scalings and shifts, each image its own, and a little noise."""
    count = len(images)
    angle = (torch.rand(count) - 0.5) * math.radians(24)
    scale = 1 + (torch.rand(count) - 0.5) * 0.2
    shift = (torch.rand(count, 2) - 0.5) * 0.3
    rows = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin(), shift[:, 0]], 1),
            torch.stack([scale * angle.sin(), scale * angle.cos(), shift[:, 1]], 1),
        ],
        1,
    )
    moved = F.grid_sample(images, F.affine_grid(rows, list(images.shape), align_corners=False), align_corners=False)
    return (moved + 0.03 * torch.randn_like(moved)).clamp(0, 1)


def report(name: str, network: nn.Module, path: Path) -> None:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    scores = ", ".join(f"{split} {accuracy(network, split):.2f} %" for split in ("train", "validation", "test"))
    print(f"{name}: {parameters} parameters, {path.stat().st_size} bytes, {scores}")


@torch.no_grad()
def accuracy(network: nn.Module, split: SplitName) -> float:
    images, labels = samples(split)
    return 100 * (network(images).argmax(1) == labels).float().mean().item()


def samples(split: SplitName) -> tuple[Tensor, Tensor]:
    dataset = digits.load(DigitsParams(), SplitSizes(), Path(), 0)
    batch = next(dataset.split(split).batches(len(dataset.split(split))))
    return torch.from_numpy(batch.inputs["input"]), torch.from_numpy(batch.labels)


if __name__ == "__main__":
    main()
