"""`compressctl auto` on networks and data that no search of this project was tried on before, beside recipes of one technique each.

    python benchmarks/search_unseen.py [--models mobile vit] [--part search techniques] [--epochs 4] [--time 30m] [--folder FOLDER]

COMPRESSCTL_FASHION names the folder that train_vit.py wrote (benchmarks/README.md). mobile: a small MobileNet with HardSwish and squeeze-and-excitation, trained here for six epochs on Fashion-MNIST;
vit: train_vit.py's vision transformer of 196 tokens. The command is the one of search_resnet20.py with its defaults: a point may be lost, nothing else is asked. Recipes of one technique train as
long as the search does. All figures are of the plain ONNX files, on the 10,000 test images, of which `auto` leaves 2,000 to choose by. Each run goes on where it was stopped. Exits with 1
where a recipe that keeps the loss is as small and as fast as what the search found, or better in the product of both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finished import is_finished
from networks import fashion_mobile
from safetensors.torch import save_file
from torch.nn import functional

ROOT = Path(__file__).parent.parent
_DROP = 1.0
_PARTS = ("search", "techniques")
_MEAN, _STD, _BATCH = 0.286, 0.353, 128


@dataclass(frozen=True)
class Network:
    factory: str
    weights: str
    rate: float


NETWORKS = {
    "mobile": Network("benchmarks/networks.py:fashion_mobile", "mobile.safetensors", 0.002),
    "vit": Network("recipes/models/patch_vit.py:fashion_vit", "vit.safetensors", 0.001),
}


@dataclass(frozen=True)
class Row:
    name: str
    lost: float
    size: int
    smaller: float
    speed: dict[str, Any]

    def line(self) -> str:
        speed = f"{self.speed['ratio']:.2f}x ({self.speed['low']:.2f} to {self.speed['high']:.2f})"
        return f"{self.name} | {self.lost:.2f} points | {self.size / 1e3:.0f} kB, {self.smaller:.2f}x smaller | {speed}"

    @property
    def gain(self) -> float:
        return self.smaller * float(self.speed["ratio"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--time", default="30m", help="of each search")
    parser.add_argument("--part", nargs="*", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "search" / "unseen")
    asked = parser.parse_args()
    if "COMPRESSCTL_FASHION" not in os.environ:
        parser.error("set COMPRESSCTL_FASHION to the folder that train_vit.py wrote; see benchmarks/README.md")
    print("| network | by | lost | file | speed against float |\n|---|---|---|---|---|")
    kept = [_network(name, asked) for name in asked.models]
    return int(not all(kept))


def _network(name: str, asked: argparse.Namespace) -> bool:
    network, data = NETWORKS[name], Path(os.environ["COMPRESSCTL_FASHION"]).resolve()
    folder = asked.folder.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "mobile" and not (data / network.weights).is_file():
        _train(data)
    found = _searched(name, folder, network, data, asked) if "search" in asked.part else None
    techniques = _techniques(network, asked.epochs) if "techniques" in asked.part else {}
    rows = [_single(name, one, stages, folder, network, data) for one, stages in techniques.items()]
    best = max((row.gain for row in rows if row.lost <= _DROP), default=0.0)
    return found is not None and found.lost <= _DROP and found.gain > best


def _recipe(network: Network, data: Path, stages: list[dict[str, Any]]) -> dict[str, Any]:
    arrays = {"inputs": "train_images", "labels": "train_labels", "test_inputs": "test_images", "test_labels": "test_labels"}  # fmt: skip
    return {
        "recipe": "compressctl/v1",
        "name": "unseen",
        "task": "classification",
        "model": {
            "source": "python",
            "factory": str(ROOT / network.factory),
            "weights": str(data / network.weights),
            "input_shape": [1, 28, 28],
        },
        "data": {
            "source": "npz", "path": str(data / "fashion.npz"), **arrays, "layout": "NHW", "mean": [_MEAN], "std": [_STD],
            "train": 20000, "calibration": 300, "validation": 2000,
        },
        "target": {"backend": "onnxruntime", "threads": 1, "batch_size": 1},
        "stages": stages,
        "export": ["onnxruntime"],
    }  # fmt: skip


def _techniques(network: Network, epochs: int) -> dict[str, list[dict[str, Any]]]:
    taught = {
        "id": "taught", "use": "distill.logits", "teacher": "original", "epochs": epochs, "optimizer": "adamw",
        "learning_rate": network.rate, "batch_size": _BATCH,
    }  # fmt: skip
    return {
        "8 bits": [{"id": "int8", "use": "quantize.static"}],
        "half of the channels": [{"id": "slim", "use": "prune.channels", "keep": 0.5, "of": "macs"}, taught],
        "low rank": [{"id": "thin", "use": "factorize.svd", "rank": {"ratio": 0.5}}, taught],
    }  # fmt: skip


def _single(name: str, technique: str, stages: list[dict[str, Any]], folder: Path, network: Network, data: Path) -> Row:
    recipe, output = folder / f"{technique}.json", folder / technique
    recipe.write_text(json.dumps(_recipe(network, data, stages), indent=1))
    if not is_finished(output):
        _run("apply", str(recipe), "--output", str(output), "--measure", "headline")
    part = json.loads((output / "report.json").read_text())["backends"][0]
    found, base = part["compressed"], part["baseline"]
    row = Row(
        technique,
        base["score"]["value"] - found["score"]["value"],
        found["total_bytes"],
        base["total_bytes"] / found["total_bytes"],
        found["speed"],
    )
    print(f"| {name} | {row.line()} |", flush=True)
    return row


def _searched(name: str, folder: Path, network: Network, data: Path, asked: argparse.Namespace) -> Row | None:
    recipe, output = folder / "network.json", folder / "auto"
    recipe.write_text(json.dumps(_recipe(network, data, [{"id": "int8", "use": "quantize.static"}]), indent=1))
    training = (f"epochs={asked.epochs}", "optimizer=adamw", f"learning_rate={network.rate}", f"batch_size={_BATCH}")
    if not _is_done(output / "search.json"):
        _run(
            "auto", str(recipe), "--drop", str(_DROP), *(part for value in training for part in ("--train", value)),
            "--time", asked.time, "--output", str(output),
        )  # fmt: skip
    search = json.loads((output / "search.json").read_text())
    chosen = next((one for one in search["points"] if one["name"] == search["chosen"]), None)
    if chosen is None or chosen["confirmed"] is None:
        print(f"| {name} | auto | {' '.join(search['summary'])} | | |", flush=True)
        return None
    found = chosen["confirmed"]
    row = Row(f"auto: {chosen['name']}, of {len(search['points'])}", found["loss"]["value"], found["total_bytes"], found["smaller"], found["speed"])  # fmt: skip
    print(f"| {name} | {row.line()} |", flush=True)
    return row


def _is_done(search: Path) -> bool:
    return search.is_file() and json.loads(search.read_text())["status"] != "interrupted"


def _train(folder: Path) -> None:
    torch.manual_seed(0)
    network, epochs = fashion_mobile(), 6
    with np.load(folder / "fashion.npz") as arrays:
        images = (torch.from_numpy(arrays["train_images"].astype(np.float32) / 255)[:, None] - _MEAN) / _STD
        labels = torch.from_numpy(arrays["train_labels"])
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    steps = len(images) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.006, total_steps=epochs * steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images))
        for place in range(steps):
            some = order[place * _BATCH : (place + 1) * _BATCH]
            batch = images[some].flip(3) if place % 2 else images[some]
            loss = functional.cross_entropy(network(batch), labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}", file=sys.stderr, flush=True)
    save_file(network.state_dict(), folder / "mobile.safetensors")


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "compressctl", *arguments], cwd=ROOT, stdout=sys.stderr, check=False)


if __name__ == "__main__":
    sys.exit(main())
