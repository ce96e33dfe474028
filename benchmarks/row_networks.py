"""A GRU and an LSTM that read MNIST row by row: trained here, half of their multiply-accumulates removed, in 8 bits."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

MODELS = Path(__file__).parent.parent / "recipes" / "models" / "rows.py"
EPOCHS, BATCH, RATE = 3, 128, 2e-3
MEAN, STD = 0.1307, 0.3081

RECIPE = """\
recipe: compressctl/v1
task: classification
model: {{source: python, factory: "{models}:{cell}", weights: {weights}, input_shape: [1, 28, 28]}}
data: {{source: npz, path: {data}, inputs: train_images, labels: train_labels, test_inputs: test_images, test_labels: test_labels,
  layout: NHW, mean: [{mean}], std: [{std}], calibration: 500, validation: 5000}}
target: {{backend: onnxruntime, device: cpu, threads: 1, batch_size: 1}}
stages:
{stages}
export: [onnxruntime]
"""
PRUNED = "  - {use: prune.channels, keep: 0.5, criterion: taylor, finetune: {epochs: 2, batch_size: 128, learning_rate: 0.001, optimizer: adam}}\n"
EIGHT_BITS = "  - {use: quantize.dynamic}\n"


def own(data: Path, cells: Sequence[str]) -> None:
    # Threads of small recurrent steps wait for each other: on a busy machine two take many times as long as one.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    print("\n| network | stages | accuracy, float | accuracy | size | smaller | faster (batch 1, 1 thread) | layers |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for cell in cells:
            weights = trained(cell, data, folder)
            for number, (words, stages) in enumerate(
                {"8 bits": EIGHT_BITS, "pruned": PRUNED, "pruned, 8 bits": PRUNED + EIGHT_BITS}.items()
            ):
                recipe = folder / f"{cell}{number}.yaml"
                given = {"models": MODELS, "cell": cell, "weights": weights, "data": data.resolve(), "stages": stages}
                recipe.write_text(RECIPE.format(**given, mean=MEAN, std=STD))
                print(f"| {cell} | {words} | {_measured(recipe, folder / recipe.stem)} |", flush=True)


def _measured(recipe: Path, into: Path) -> str:
    command = ["apply", recipe, "--output", into, "--measure", "final"]
    done = subprocess.run([sys.executable, "-m", "compressctl", *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    [part] = json.loads((into / "report.json").read_text())["backends"]
    before, after = part["baseline"], part["compressed"]
    sizes = [sum(found["files"].values()) if "files" in found else found["size_bytes"] for found in (before, after)]
    forms = "; ".join(note.split(":")[1].strip() for note in part["notes"] if "LSTM" in note or "GRU" in note)
    return (
        f"{before['score']['value']:.2f} % | {after['score']['value']:.2f} % | {sizes[1] / 1e3:.0f} kB | "
        f"{sizes[0] / sizes[1]:.2f}x | {_ratio(after)} | {forms or 'float'}"
    )


def _ratio(after: dict[str, Any]) -> str:
    speed = after["speed"]
    return f"{speed['ratio']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})"


def trained(cell: str, data: Path, folder: Path) -> Path:
    """Weights after a few epochs on the train images that the recipes do not hold out: the order of theirs is not known here, so all
    are trained on, and accuracy is told on the test images alone."""
    with np.load(data) as stored:
        images, labels = stored["train_images"], stored["train_labels"]
    inputs = torch.from_numpy((images[:, None] / np.float32(255) - np.float32(MEAN)) / np.float32(STD))
    spec = importlib.util.spec_from_file_location("rows", MODELS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network: nn.Module = getattr(module, cell)()
    steps = EPOCHS * (len(inputs) // BATCH)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    targets = torch.from_numpy(labels.astype(np.int64))
    for step in range(steps):
        if step % (len(inputs) // BATCH) == 0:
            order = torch.randperm(len(inputs))
        chosen = order[BATCH * (step % (len(inputs) // BATCH)) :][:BATCH]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
        schedule.step()
    weights = folder / f"{cell}.safetensors"
    save_file(network.state_dict(), weights)
    return weights
