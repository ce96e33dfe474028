"""Train the wide perceptron of recipes/factorize-mlp.yaml on that recipe's own train split, in two minutes on one core.

python benchmarks/train_mlp.py        writes build/wide-mlp.safetensors
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compressctl.core.data import Split
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "factorize-mlp.yaml"
WEIGHTS = ROOT / "build" / "wide-mlp.safetensors"
EPOCHS = 8


def main() -> None:
    recipe = load(RECIPE, [], [])
    assert recipe.data is not None
    data = load_dataset(recipe.data, recipe.base, recipe.seed)
    torch.manual_seed(0)
    network = untrained()
    _train(network, *_tensors(data.split("train")))
    images, labels = _tensors(data.split("test"))
    with torch.no_grad():
        right = (network(images).argmax(1) == labels).float().mean()
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), WEIGHTS)
    print(f"{right:.2%} on the test split, written to {WEIGHTS}")


def untrained() -> nn.Module:
    spec = importlib.util.spec_from_file_location("wide_mlp", ROOT / "recipes" / "models" / "wide_mlp.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.wide_mlp()


def _tensors(split: Split) -> tuple[Tensor, Tensor]:
    batch = next(split.batches(len(split)))
    assert batch.labels is not None
    return torch.as_tensor(batch.inputs["input"]), torch.as_tensor(batch.labels)


def _train(network: nn.Module, images: Tensor, labels: Tensor, size: int = 128) -> None:
    steps = EPOCHS * (len(images) // size)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    network.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - size + 1, size):
            chosen = order[start : start + size]
            loss = nn.functional.cross_entropy(network(images[chosen]), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: {loss.item():.4f}", flush=True)
    network.eval()


if __name__ == "__main__":
    main()
