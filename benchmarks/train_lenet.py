"""Train the dense networks of recipes/lenet-300-100.yaml and recipes/lenet-5.yaml on each recipe's own train split.

python benchmarks/train_lenet.py lenet-300-100 [--seed 0]     writes build/lenet-300-100-0.safetensors, in half a minute
python benchmarks/train_lenet.py lenet-5 [--seed 0]           writes build/lenet-5-0.safetensors, in four minutes
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compressctl.core.data import Split
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.training.augment import augment
from compressctl.training.params import Augmentation

ROOT = Path(__file__).parent.parent
EPOCHS = {"lenet-300-100": 12, "lenet-5": 8}
SHIFT = 2
"""Pixels by which the recipes move images while they train."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(EPOCHS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--shift", type=int, default=0, help="pixels by which images are moved at most while training")
    given = parser.parse_args()
    started = time.perf_counter()
    file = train(given.network, given.seed, given.epochs or EPOCHS[given.network], given.shift)
    print(f"written to {file} in {time.perf_counter() - started:.0f} s")


def train(name: str, seed: int, epochs: int, shift: int = 0) -> Path:
    """The trained network's file. The last epoch is kept; the test split is only reported."""
    recipe = load(ROOT / "recipes" / f"{name}.yaml", [f"seed={seed}"], [])
    assert recipe.data is not None
    data = load_dataset(recipe.data, recipe.base, seed)
    torch.manual_seed(seed)
    network = untrained(name)
    _train(network, *_tensors(data.split("train")), np.random.default_rng(seed), epochs, shift)
    for split in ("validation", "test"):
        print(f"{_error(network, *_tensors(data.split(split))):.2%} wrong on the {split} split")
    file = ROOT / "build" / f"{name}-{seed}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), file)
    return file


def wrong(name: str, weights: Path, seed: int) -> float:
    """Error on the test split, in percent."""
    recipe = load(ROOT / "recipes" / f"{name}.yaml", [f"seed={seed}"], [])
    assert recipe.data is not None
    network = untrained(name).eval()
    network.load_state_dict(load_file(weights))
    return 100 * _error(network, *_tensors(load_dataset(recipe.data, recipe.base, seed).split("test")))


def untrained(name: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location("lenet", ROOT / "recipes" / "models" / "lenet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name.replace("-", "_"))()


def _tensors(split: Split) -> tuple[Tensor, Tensor]:
    batch = next(split.batches(len(split)))
    assert batch.labels is not None
    return torch.as_tensor(batch.inputs["input"]), torch.as_tensor(batch.labels)


def _train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    rng: np.random.Generator,
    epochs: int,
    shift: int,
    size: int = 128,
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * (len(images) // size))
    network.train()
    for epoch in range(epochs):
        order = torch.as_tensor(rng.permutation(len(images)))
        for start in range(0, len(images) - size + 1, size):
            chosen = order[start : start + size]
            shown = augment(images[chosen], Augmentation(crop_padding=shift), rng) if shift else images[chosen]
            loss = nn.functional.cross_entropy(network(shown), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: {loss.item():.4f}", flush=True)
    network.eval()


def _error(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        parts = [network(part).argmax(1) for part in images.split(1000)]
    return float((torch.cat(parts) != labels).float().mean())


if __name__ == "__main__":
    main()
