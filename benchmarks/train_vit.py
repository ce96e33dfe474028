"""Train the vision transformer of recipes/tokens-vit.yaml on Fashion-MNIST, in half an hour on two cores; writes its data beside it.

    python benchmarks/train_vit.py FOLDER build/fashion        FOLDER holds the four *-ubyte.gz files of Debian's dataset-fashion-mnist

Writes build/fashion/fashion.npz and vit.safetensors, which is not trained again where it is there. Matrices inside blocks are trained with Muon (Jordan et al. 2024), all else with AdamW.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "models"))
from patch_vit import fashion_vit

_EPOCHS, _BATCH = 10, 128
_MUON_RATE, _ADAM_RATE = 0.02, 2e-3
_MEAN, _STD = 0.286, 0.353


def main(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "fashion.npz"
    if not data.is_file():
        np.savez_compressed(
            data,
            **{
                f"{part}_{kind}": _read(source, part, kind)
                for part in ("train", "test")
                for kind in ("images", "labels")
            },
        )
    arrays = np.load(data)
    images, labels = _tensors(arrays["train_images"], arrays["train_labels"])
    network = _trained(images, labels, folder / "vit.safetensors")
    images, labels = _tensors(arrays["test_images"], arrays["test_labels"])
    with torch.no_grad():
        right = torch.cat([network(part).argmax(1) for part in images.split(500)]) == labels
    print(f"{right.float().mean():.2%} on the test split")


def _read(source: Path, part: str, kind: str) -> np.ndarray:
    name = {"train": "train", "test": "t10k"}[part]
    (path,) = source.rglob(f"{name}-{kind}-idx*-ubyte.gz")
    raw = gzip.decompress(path.read_bytes())
    return (
        np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
        if kind == "images"
        else np.frombuffer(raw, np.uint8, offset=8).astype(np.int64)
    )


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    return (pixels - _MEAN) / _STD, torch.from_numpy(labels)


def _trained(images: Tensor, labels: Tensor, path: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    network = fashion_vit()
    if path.is_file():
        network.load_state_dict(load_file(path))
        return network.eval()
    steps = len(images) // _BATCH
    optimizers = _optimizers(network)
    schedules = [_schedule(optimizer, _EPOCHS * steps) for optimizer in optimizers]
    for epoch in range(_EPOCHS):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        network.train()
        for place in range(steps):
            some = order[place * _BATCH : (place + 1) * _BATCH]
            batch = images[some]
            batch = batch.flip(3) if place % 2 else batch
            loss = functional.cross_entropy(network(batch), labels[some], label_smoothing=0.05)
            network.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            for part in (*optimizers, *schedules):
                part.step()
            if place % 50 == 0:
                print(f"epoch {epoch + 1}/{_EPOCHS}, step {place}, loss {loss.item():.3f}", flush=True)
    save_file(network.state_dict(), path)
    return network.eval()


def _optimizers(network: torch.nn.Module) -> list[torch.optim.Optimizer]:
    matrices = [weight for weight in network.get_submodule("blocks").parameters() if weight.ndim == 2]
    known = {id(weight) for weight in matrices}
    others = [weight for weight in network.parameters() if id(weight) not in known]
    muon = torch.optim.Muon(matrices, lr=_MUON_RATE, weight_decay=0.02, adjust_lr_fn="original")
    return [muon, torch.optim.AdamW(others, _ADAM_RATE, weight_decay=0.05)]


def _schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    (rate,) = {group["lr"] for group in optimizer.param_groups}
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15, cycle_momentum=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
