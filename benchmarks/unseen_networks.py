"""Networks and data that searches had not seen when they were first run on them (search_unseen.py): how each is made, fed and trained.

mobile: a small MobileNet with HardSwish and squeeze-and-excitation; vit: train_vit.py's transformer; both on Fashion-MNIST. dense: a DenseNet of densely connected
bottlenecks on MNIST. words: a residual network of 1-D convolutions that reads 32 characters whose spaces were taken out, and says whether one was in the middle.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import fashion_mobile
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

ROOT = Path(__file__).resolve().parent.parent
_BATCH = 128
_WINDOW, _CHARACTERS = 32, 128
_WORDS = {"train": (60_000, ("tinyshakespeare.txt", "wikitext2-valid.txt")), "test": (10_000, ("wikitext2-test.txt",))}


class Bottleneck(nn.Module):
    """`growth` channels more, made of all before. x: (n, c, h, w)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.mix = nn.BatchNorm2d(width), nn.Conv2d(width, 4 * growth, 1, bias=False)
        self.norm2, self.look = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.look(F.relu(self.norm2(self.mix(F.relu(self.norm1(x))))))], dim=1)


class Dense(nn.Module):
    """DenseNet-BC (Huang et al. 2017) of two blocks. x: (n, 1, 28, 28)."""

    def __init__(self, growth: int = 24, layers: int = 4) -> None:
        super().__init__()
        width = 2 * growth
        parts: list[nn.Module] = [nn.Conv2d(1, width, 3, 2, 1, bias=False)]
        for block in range(2):
            if block:
                parts += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]  # fmt: skip
                width //= 2
            parts += [Bottleneck(width + growth * place, growth) for place in range(layers)]
            width += growth * layers
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    """Two convolutions over characters beside a way around them. x: (n, c, places)."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.expand = nn.Conv1d(width, 2 * width, 3, padding=dilation, dilation=dilation, bias=False)
        self.contract = nn.Conv1d(2 * width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm1d(2 * width), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.contract(F.relu(self.norm1(self.expand(x))))))


class Words(nn.Module):
    """ids: (n, 32) of characters below 128. Logits (n, 2): whether a word ends in the middle."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(_CHARACTERS, 48)
        self.first = nn.Conv1d(48, width, 5, padding=2)
        self.blocks = nn.Sequential(*(Residual(width, dilation) for dilation in (1, 2, 4, 1)))
        self.head = nn.Linear(2 * width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.first(self.embed(ids).transpose(1, 2))))
        return self.head(x[:, :, _WINDOW // 2 - 1 : _WINDOW // 2 + 1].flatten(1))


@dataclass(frozen=True)
class Unseen:
    """rate: of AdamW, for what is trained after it was cut. epochs: of its own training. images: (mean, standard deviation), None for characters."""

    factory: str
    file: str
    weights: str
    rate: float
    make: Callable[[], nn.Module] | None
    images: tuple[float, float] | None
    epochs: int = 6

    @property
    def folder(self) -> Path:
        """With its weights, which are made where they are missing."""
        return _folder("COMPRESSCTL_FASHION") if self.file == "fashion.npz" else ROOT / "build" / "unseen"

    @property
    def data(self) -> Path:
        return (_folder("COMPRESSCTL_DATA") if self.file == "mnist.npz" else self.folder) / self.file

    def prepare(self) -> None:
        """Raises KeyError with the environment variable that is not set."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.file == "words.npz" and not self.data.is_file():
            _write_words(self.data)
        if self.make is not None and not (self.folder / self.weights).is_file():
            _train(self)

    def export(self) -> Path:
        """An ONNX file of the trained network, as torch's own exporter writes it."""
        path = self.folder / f"{Path(self.weights).stem}.onnx"
        if not path.is_file():
            assert self.make is not None
            network = self.make()
            network.load_state_dict(load_file(self.folder / self.weights))
            some, _ = self.tensors("test")
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(network.eval(), (some[:2],), dynamo=True, dynamic_shapes=shapes, input_names=["input"], output_names=["output"])  # fmt: skip
            assert program is not None
            program.save(path, include_initializers=True)
        return path

    def recipe(self, *, as_file: bool = False) -> dict[str, Any]:
        """Model and data of a recipe. as_file: its ONNX file in the place of the network."""
        arrays = {"inputs": "train_images", "labels": "train_labels", "test_inputs": "test_images", "test_labels": "test_labels"}  # fmt: skip
        shape, layout = {"input_shape": [_WINDOW], "input_dtype": "int64"}, {}
        if self.images is not None:
            mean, deviation = self.images
            shape, layout = {"input_shape": [1, 28, 28]}, {"layout": "NHW", "mean": [mean], "std": [deviation]}
        counts = {"train": 20000, "calibration": 300, "validation": 2000}
        network = {"source": "python", "factory": self.factory, "weights": str(self.folder / self.weights), **shape}
        return {
            "model": {"source": "onnx", "path": str(self.export())} if as_file else network,
            "data": {"source": "npz", "path": str(self.data), **arrays, **layout, **counts},
        }

    def tensors(self, part: str) -> tuple[Tensor, Tensor]:
        with np.load(self.data) as arrays:
            inputs, labels = torch.from_numpy(arrays[f"{part}_images"]), torch.from_numpy(arrays[f"{part}_labels"])
        if self.images is not None:
            inputs = (inputs.float() / 255 - self.images[0]).div(self.images[1])[:, None]
        return inputs, labels.long()


def _folder(variable: str) -> Path:
    return Path(os.environ[variable]).resolve()


UNSEEN = {
    "mobile": Unseen(f"{ROOT}/benchmarks/networks.py:fashion_mobile", "fashion.npz", "mobile.safetensors", 0.002, fashion_mobile, (0.286, 0.353)),
    "vit": Unseen(f"{ROOT}/recipes/models/patch_vit.py:fashion_vit", "fashion.npz", "vit.safetensors", 0.001, None, (0.286, 0.353)),
    "dense": Unseen(f"{ROOT}/benchmarks/unseen_networks.py:Dense", "mnist.npz", "dense.safetensors", 0.002, Dense, (0.131, 0.308), epochs=2),
    "words": Unseen(f"{ROOT}/benchmarks/unseen_networks.py:Words", "words.npz", "words.safetensors", 0.002, Words, None),
}  # fmt: skip


def _write_words(path: Path) -> None:
    """Characters of plain text in small letters, spaces left out: train_images (n, 32) int64 and train_labels (n) int64, and of test."""
    found, rng = {}, np.random.default_rng(0)
    for part, (count, names) in _WORDS.items():
        text = " ".join((_folder("COMPRESSCTL_DATA") / "text" / name).read_text().lower() for name in names)
        words = text.replace("<unk>", " ").split()
        ids = np.frombuffer("".join(words).encode("ascii", "replace"), np.uint8).astype(np.int64)
        ends = np.zeros(len(ids), np.int64)
        ends[np.cumsum([len(word) for word in words]) - 1] = 1
        starts = np.sort(rng.choice(len(ids) - _WINDOW, count, replace=False))
        rng.shuffle(starts)
        found[f"{part}_images"] = ids[starts[:, None] + np.arange(_WINDOW)]
        found[f"{part}_labels"] = ends[starts + _WINDOW // 2 - 1]
    np.savez_compressed(path, **found)


def _train(one: Unseen) -> None:
    assert one.make is not None
    torch.manual_seed(0)
    network = one.make()
    inputs, labels = one.tensors("train")
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    steps = len(inputs) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.006, total_steps=one.epochs * steps)
    mirrors = one.file == "fashion.npz"
    for epoch in range(one.epochs):
        order = torch.randperm(len(inputs))
        for place in range(steps):
            some = order[place * _BATCH : (place + 1) * _BATCH]
            batch = inputs[some].flip(3) if mirrors and place % 2 else inputs[some]
            loss = F.cross_entropy(network(batch), labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{one.epochs}, loss {loss.item():.3f}", file=sys.stderr, flush=True)
    network.eval()
    inputs, labels = one.tensors("test")
    with torch.no_grad():
        right = torch.cat([network(part).argmax(1) for part in inputs.split(500)]) == labels
    print(f"{one.weights}: {right.float().mean():.2%} on the test split", file=sys.stderr, flush=True)
    save_file(network.state_dict(), one.folder / one.weights)


if __name__ == "__main__":
    for name in sys.argv[1:] or UNSEEN:
        UNSEEN[name].prepare()
