"""A U-Net that is pruned, distilled and put into integers, a network with two heads, and recipes that ruin them.

Trained here on scenes that float does not solve: handwritten digits (scikit-learn's, resized) pasted over crops of its two photographs,
in colours of the photograph, with noise and with strokes that are no digits. Classes of pixels: ground, digit, stroke. The second head
counts the digits. Digits and parts of the photographs that the test shows are in no training scene.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BUILD = Path(__file__).parent / "build" / "tasks_segmentation"
SIZE, CLASSES, MOST_DIGITS = 48, 3, 3
GROUND, DIGIT, STROKE = range(CLASSES)


class Block(nn.Sequential):
    def __init__(self, given: int, made: int) -> None:
        super().__init__(
            nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU(),
            nn.Conv2d(made, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU(),
        )  # fmt: skip


class UNet(nn.Module):
    """(n, 3, height, width) to scores (n, classes, height, width) (Ronneberger et al. 2015), three levels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = Block(3, width), Block(width, 2 * width), Block(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.join2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2), Block(4 * width, 2 * width)
        self.up1, self.join1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2), Block(2 * width, width)
        self.head = nn.Conv2d(width, CLASSES, 1)

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        first = self.down1(image)
        second = self.down2(self.pool(first))
        deep = self.middle(self.pool(second))
        joined = self.join2(torch.cat([self.up2(deep), second], 1))
        return self.join1(torch.cat([self.up1(joined), first], 1)), deep

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image)[0])


class TwoHeads(UNet):
    """Masks, and how many digits there are."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.count = nn.Linear(4 * width, MOST_DIGITS + 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        shallow, deep = self.features(image)
        return {"mask": self.head(shallow), "count": self.count(deep.mean((2, 3)))}


def unet(width: int = 24) -> nn.Module:
    torch.manual_seed(0)
    return UNet(width)


def two_heads(width: int = 12) -> nn.Module:
    torch.manual_seed(0)
    return TwoHeads(width)


def scenes(count: int, part: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, 3, 48, 48) float32, masks (n, 48, 48), numbers of digits (n,). part: train or test, which share no digit and no ground."""
    from PIL import Image
    from sklearn.datasets import load_digits, load_sample_images

    rng = np.random.default_rng(seed)
    digits = load_digits()
    is_test = np.arange(len(digits.images)) % 5 == 0
    chosen = np.flatnonzero(is_test == (part == "test"))
    photographs = [photograph / np.float32(255) for photograph in load_sample_images().images]
    grounds = [photograph[:, :450] if part == "train" else photograph[:, 450:] for photograph in photographs]
    images, masks = np.empty((count, 3, SIZE, SIZE), np.float32), np.zeros((count, SIZE, SIZE), np.int64)
    numbers = rng.integers(0, MOST_DIGITS + 1, count)
    for place in range(count):
        ground = grounds[rng.integers(len(grounds))]
        top, left = rng.integers(0, ground.shape[0] - SIZE), rng.integers(0, ground.shape[1] - SIZE)
        image = ground[top : top + SIZE, left : left + SIZE].copy()
        for _ in range(rng.integers(0, 4)):  # strokes that are no digits
            _paste(image, masks[place], _stroke(rng), ground, STROKE, rng)
        for _ in range(numbers[place]):
            digit = int(rng.choice(chosen))
            side = int(rng.integers(18, 29))
            shape = Image.fromarray((digits.images[digit] * 15).astype(np.uint8)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
            turned = shape.rotate(float(rng.uniform(-25, 25)))
            _paste(image, masks[place], np.asarray(turned) > 110, ground, DIGIT, rng)
        noise = rng.normal(0, 0.08, image.shape)
        images[place] = np.clip(image + noise, 0, 1).transpose(2, 0, 1)
    return images, masks, numbers


def _stroke(rng: np.random.Generator) -> np.ndarray:
    from PIL import Image, ImageDraw

    side = int(rng.integers(14, 29))
    drawn = Image.new("L", (side, side))
    points = [tuple(rng.integers(0, side, 2).tolist()) for _ in range(3)]
    ImageDraw.Draw(drawn).line(points, fill=255, width=int(rng.integers(2, 5)))
    return np.asarray(drawn) > 0


def _paste(
    image: np.ndarray,
    mask: np.ndarray,
    shape: np.ndarray,
    ground: np.ndarray,
    label: int,
    rng: np.random.Generator,
) -> None:
    """In a colour that the photograph has elsewhere, not far from those around."""
    height, width = shape.shape
    top, left = rng.integers(0, SIZE - height + 1), rng.integers(0, SIZE - width + 1)
    around = image[top : top + height, left : left + width]
    colour = ground[rng.integers(ground.shape[0]), rng.integers(ground.shape[1])]
    if np.abs(colour - around.mean((0, 1))).mean() < 0.12:
        colour = np.clip(1 - around.mean((0, 1)), 0, 1)
    around[shape] = 0.75 * colour + 0.25 * around[shape]
    mask[top : top + height, left : left + width][shape] = label


def make_data() -> Path:
    """The scenes as one .npz, its test split its own."""
    path = BUILD / "scenes.npz"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        train, test = scenes(3600, "train", 1), scenes(1000, "test", 2)
        arrays = dict(zip(("image", "mask", "count"), train, strict=True))
        own = dict(zip(("test_image", "test_mask", "test_count"), test, strict=True))
        np.savez(
            path,
            **{
                name: array.astype(np.float16) if array.dtype == np.float32 else array.astype(np.uint8)
                for name, array in {**arrays, **own}.items()
            },
        )
    return path


DATA = "data: {source: npz, path: scenes.npz, inputs: image, labels: %s, test_inputs: test_image, test_labels: %s, calibration: 300, validation: 500, scale: 1}\n"
ONE = DATA % ("mask", "test_mask")
BOTH = DATA % ("{mask: mask, count: count}", "{mask: test_mask, count: test_count}")
MODEL = "model: {source: python, factory: ../../tasks_segmentation.py:%s, input_shape: [3, 48, 48]%s}\n"
HEADS = "heads: {mask: {task: segmentation}, count: {task: classification}}\n"
TRAIN = "{use: finetune, epochs: %d, batch_size: 32, learning_rate: 0.003, optimizer: adamw}"
SMALLER = "{use: prune.channels, keep: %s, finetune: {epochs: %d, batch_size: 32, learning_rate: 0.002, optimizer: adamw, teacher: original}}"
TAUGHT = "{use: distill.logits, teacher: original, epochs: %d, batch_size: 32, learning_rate: 0.001, optimizer: adamw}"
INT8 = "{use: quantize.static, gate: {accuracy_drop: 1}}"
RUINED = "{use: quantize.weights, bits: 2, granularity: tensor, if_slower: keep, gate: {%s, otherwise: stop}}"


def recipes(epochs: int) -> dict[str, str]:
    """By name, in the order in which they run."""
    head = "recipe: compressctl/v1\n"
    one, two = head + "task: segmentation\n" + ONE, head + HEADS + BOTH
    trained = {name: f", weights: {name}.safetensors" for name in ("unet", "two_heads")}
    small = f"stages: [{SMALLER % (0.6, epochs)}, {TAUGHT % max(1, epochs // 2)}, {INT8}]\n"
    keeps = "stages: [{use: quantize.static, gate: {accuracy_drop: 1}}]\n"
    return {
        "train-unet": one + MODEL % ("unet", "") + f"stages: [{TRAIN % epochs}]\n",
        "train-two_heads": two + MODEL % ("two_heads", "") + f"stages: [{TRAIN % epochs}]\n",
        "small-unet": one + MODEL % ("unet", trained["unet"]) + small + "budget: {accuracy_drop: 1, speedup: 3}\n",
        "int8-two_heads": two + MODEL % ("two_heads", trained["two_heads"]) + keeps + "budget: {accuracy_drop: 1}\n",
        "ruined-unet": one + MODEL % ("unet", trained["unet"]) + f"stages: [{RUINED % 'accuracy_drop: 1'}]\n",
        "ruined-unet-masks": one + MODEL % ("unet", trained["unet"]) + f"stages: [{RUINED % 'kept: 99'}]\n",
        "ruined-two_heads-mask": two
        + MODEL % ("two_heads", trained["two_heads"])
        + f"stages: [{RUINED % 'accuracy_drop: {mask: 1}'}]\n",
        "ruined-two_heads-count": two
        + MODEL % ("two_heads", trained["two_heads"])
        + f"stages: [{RUINED % 'accuracy_drop: {count: 1}'}]\n",
    }


def run(name: str, text: str) -> tuple[int, dict[str, Any]]:
    path = BUILD / f"{name}.yaml"
    path.write_text(text)
    output = BUILD / "runs" / name
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "compressctl", "apply", path, "--output", output]
    code = subprocess.run([str(part) for part in command], check=False).returncode
    return code, json.loads((output / "report.json").read_text())


def row(name: str, report: dict[str, Any]) -> list[str]:
    """Of a recipe that was carried out, or that its gate stopped."""
    if report["error"]:
        said = report["error"].splitlines()[0].partition("): ")[2]
        return [name, f"stopped: {said}", "", ""]
    part = report["backends"][0]
    before, after = part["baseline"], part["compressed"]
    named = {head["name"]: head["score"] for head in before["heads"]}
    pairs = [(named[head["name"]], head["score"]) for head in after["heads"]] or [(before["score"], after["score"])]
    scores = ", ".join(f"{new['metric']} {old['value']:.2f} -> {new['value']:.2f} %" for old, new in pairs)
    if after["decoded"]:
        scores += f", {100 * after['decoded']['kept'] / after['decoded']['reference']:.2f} % of pixels as before"
    speed = after["speed"]
    return [
        name,
        scores,
        f"{part['smaller']:.2f}x smaller",
        f"{speed['ratio']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})",
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--only", nargs="*", help="recipes by name; default: all")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    asked = parser.parse_args(arguments)
    names = recipes(asked.epochs)
    if not asked.table:
        make_data()
        for name, text in names.items():
            if not asked.only or name in asked.only:
                _run_and_keep(name, text)
    print("| recipe | test scenes: float -> compressed | size | speed (95 %) |\n|---|---|---|---|")
    for name in names:
        path = BUILD / "runs" / name / "report.json"
        if path.exists() and not name.startswith("train-"):
            print("| " + " | ".join(row(name, json.loads(path.read_text()))) + " |")


def _run_and_keep(name: str, text: str) -> None:
    """What is trained is where the others start."""
    code, _ = run(name, text)
    if name.startswith("train-") and code == 0:
        made = BUILD / "runs" / name / "artifacts" / "torch" / "model.safetensors"
        (BUILD / f"{name.removeprefix('train-')}.safetensors").write_bytes(made.read_bytes())


if __name__ == "__main__":
    main()
