"""Networks that give a class for each pixel: trained, distilled and pruned on masks, with a loss of one's own too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from compressctl.cli.main import app

pytest.importorskip("torch")

NET = """
import torch
from torch import nn

class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, image):
        return self.head(self.down(image))

def make():
    torch.manual_seed(0)
    return Segmenter()

def focal(outputs, labels, power=2.0):
    losses = nn.functional.cross_entropy(outputs, labels, reduction="none")
    return ((1 - torch.exp(-losses)) ** power * losses).mean()
"""
RECIPE = """recipe: compressctl/v1
task: segmentation
model: {source: python, factory: net.py:make, input_shape: [3, 12, 12]}
data: {source: npz, path: data.npz, inputs: x, labels: labels, calibration: 16, validation: 16, test: 16}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.3, (160, 3, 12, 12)).astype(np.float32)
    labels = rng.integers(0, 3, (160, 12, 12))
    np.put_along_axis(images, labels[:, None], 2, axis=1)
    np.savez(tmp_path / "data.npz", x=images, labels=labels)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def _run(folder: Path, text: str) -> dict[str, Any]:
    (folder / "recipe.yaml").write_text(text)
    found = CliRunner().invoke(
        app, ["apply", str(folder / "recipe.yaml"), "--measure", "quick", "--output", str(folder / "out")]
    )
    assert found.exit_code == 0, found.output
    report: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text())
    return report


def _scores(report: dict[str, Any]) -> tuple[float, float]:
    part = report["backends"][0]
    return part["baseline"]["score"]["value"], part["compressed"]["score"]["value"]


@pytest.mark.parametrize("loss", ["", "loss: net.py:focal\n", "loss: {function: net.py:focal, args: {power: 1.0}}\n"])
def test_masks_are_learned(folder: Path, loss: str) -> None:
    before, after = _scores(
        _run(folder, RECIPE + loss + "stages: [{use: finetune, epochs: 12, batch_size: 8, learning_rate: 0.02}]\n")
    )
    assert before < 50
    assert after > 90


def test_channels_go_and_the_original_teaches(folder: Path) -> None:
    train = "{use: finetune, epochs: 12, batch_size: 8, learning_rate: 0.02}"
    cut = "{use: prune.channels, keep: 0.5, finetune: {epochs: 2, learning_rate: 0.02, teacher: original}}"
    taught = "{use: distill.logits, teacher: original, epochs: 1, learning_rate: 0.01}"
    report = _run(folder, RECIPE + f"stages: [{train}, {cut}, {taught}]\n")
    after = report["backends"][0]["compressed"]
    assert after["parameters"] < 0.6 * report["backends"][0]["baseline"]["parameters"]


def test_classes_that_the_network_has_not_are_refused_before_work(folder: Path) -> None:
    with np.load(folder / "data.npz") as data:
        np.savez(folder / "data.npz", x=data["x"], labels=data["labels"] + 1)
    (folder / "recipe.yaml").write_text(RECIPE + "stages: [{use: finetune, epochs: 1}]\n")
    found = CliRunner().invoke(app, ["apply", str(folder / "recipe.yaml")])
    assert found.exit_code == 2
    assert "label 3 in sample" in found.stderr


def test_what_a_loss_of_one_s_own_raises_is_said_with_its_name(folder: Path) -> None:
    (folder / "net.py").write_text(NET.replace("losses = nn", "losses = nothing.nn"))
    (folder / "recipe.yaml").write_text(RECIPE + "loss: net.py:focal\nstages: [{use: finetune, epochs: 1}]\n")
    found = CliRunner().invoke(app, ["apply", str(folder / "recipe.yaml")])
    assert found.exit_code == 2
    assert "net.py:focal failed on outputs [8, 3, 12, 12], labels [8, 12, 12]" in found.stderr


BOXES = """
import numpy as np, torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 4))

def data():
    rng = np.random.default_rng(0)
    boxes = np.empty(160, dtype=object)
    for place in range(160):
        boxes[place] = rng.uniform(0, 1, (rng.integers(1, 4), 4)).astype(np.float32)
    images = np.stack([np.full((3, 12, 12), box[0].mean(), np.float32) for box in boxes])
    return images, boxes

def read(outputs):
    return list(outputs["output"])

def nearest(outputs, labels):
    return float(np.mean([np.abs(box - row).mean() for row, box in zip(outputs, (label[0] for label in labels))]))

def first_box(outputs, labels):
    assert isinstance(labels[0], torch.Tensor)
    return torch.stack([(row - label[0]).abs().mean() for row, label in zip(outputs, labels)]).mean()
"""


def test_labels_of_any_number_reach_a_loss_of_one_s_own(folder: Path) -> None:
    (folder / "net.py").write_text(BOXES)
    head = "recipe: compressctl/v1\ntask: custom\nloss: net.py:first_box\ndecode: net.py:read\n"
    scored = "metric: {function: net.py:nearest, higher_is_better: false}\n"
    model = "model: {source: python, factory: net.py:make, input_shape: [3, 12, 12]}\ndata: {source: python, factory: net.py:data}\n"
    train = "stages: [{use: finetune, epochs: 6, batch_size: 16, learning_rate: 0.01}, {use: distill.logits, teacher: original, epochs: 1, label_weight: 1}]\n"
    before, after = _scores(_run(folder, head + scored + model + train))
    assert after < 0.7 * before


def test_a_loss_without_a_gradient_is_refused_before_any_stage(folder: Path) -> None:
    (folder / "net.py").write_text(NET.replace("** power * losses).mean()", "** power * losses).mean().detach()"))
    (folder / "recipe.yaml").write_text(RECIPE + "loss: net.py:focal\nstages: [{use: finetune, epochs: 1}]\n")
    found = CliRunner().invoke(app, ["plan", "--check", str(folder / "recipe.yaml")])
    assert found.exit_code == 2
    assert "the recipe's loss gave a number that has no gradient" in found.stderr


LABELLED = """
import numpy as np, torch
from torch import nn

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU()), nn.Linear(16, 6 * 8)

    def forward(self, image):
        rows = self.head(self.body(image)).reshape(-1, 6, 8)
        return torch.cat([12 * torch.sigmoid(rows[:, :4]), torch.sigmoid(rows[:, 4:])], 1)

def make():
    torch.manual_seed(0)
    return Detector()

def data():
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, 160)
    boxes = np.empty(160, dtype=object)
    for place in range(160):
        boxes[place] = np.array([[1, 2, 7, 8, bright[place]]], np.float32)
    return (bright[:, None, None, None] + rng.normal(0, 0.1, (160, 3, 12, 12))).astype(np.float32), boxes

def first_candidate(outputs, labels):
    wanted = torch.stack([label[0] for label in labels])
    corners = wanted[:, :4]
    middle = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    scores = torch.zeros_like(outputs[:, 4:])
    scores[torch.arange(len(wanted)), wanted[:, 4].long(), 0] = 1
    return (outputs[:, :4, 0] - middle).abs().mean() + 10 * nn.functional.binary_cross_entropy(outputs[:, 4:], scores)
"""


def test_a_detector_learns_its_boxes_by_a_loss_of_one_s_own(folder: Path) -> None:
    (folder / "net.py").write_text(LABELLED)
    report = _run(
        folder,
        "recipe: compressctl/v1\ntask: detection\ndecode: {use: yolo}\nmetric: map50\nloss: net.py:first_candidate\n"
        "model: {source: python, factory: net.py:make, input_shape: [3, 12, 12]}\n"
        "data: {source: python, factory: net.py:data, calibration: 16, validation: 16, test: 16}\n"
        "stages: [{use: finetune, epochs: 20, batch_size: 16, optimizer: adam, learning_rate: 0.01}]\n",
    )
    before, after = _scores(report)
    assert before < 50
    assert after > 90


READER = """
import numpy as np, torch
from torch import nn

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.columns = nn.Conv2d(1, 3, (8, 4), stride=(8, 4))

    def forward(self, image):
        return self.columns(image).squeeze(2).transpose(1, 2)

def make():
    torch.manual_seed(0)
    return Reader()

def data():
    # A column of light at the top says a, at the bottom b, none is no letter.
    rng = np.random.default_rng(0)
    images, texts = rng.normal(0, 0.1, (160, 1, 8, 24)).astype(np.float32), np.empty(160, dtype=object)
    for place in range(160):
        letters = rng.integers(0, 3, 6)
        for step, letter in enumerate(letters):
            if letter:
                images[place, 0, 4 * letter - 4 : 4 * letter, 4 * step : 4 * step + 4] += 1
        steps = [letter for letter, before in zip(letters, [0, *letters]) if letter != before]
        texts[place] = "".join("-ab"[letter] for letter in steps if letter)
    return images, texts
"""


def test_a_recogniser_learns_from_texts_by_its_decoder_s_alphabet(folder: Path) -> None:
    (folder / "net.py").write_text(READER)
    head = "recipe: compressctl/v1\ntask: recognition\nmetric: exact\ndecode: {use: ctc, alphabet: [a, b]}\n"
    model = "model: {source: python, factory: net.py:make, input_shape: [1, 8, 24]}\ndata: {source: python, factory: net.py:data}\n"
    before, after = _scores(
        _run(folder, head + model + "stages: [{use: finetune, epochs: 20, batch_size: 16, learning_rate: 0.05}]\n")
    )
    assert before < 20
    assert after > 80


def test_where_no_loss_makes_sense_the_message_says_what_does(folder: Path) -> None:
    head = "recipe: compressctl/v1\ntask: detection\ndecode: {use: yolo}\n"
    text = head + RECIPE.partition("segmentation\n")[2] + "stages: [{use: finetune, epochs: 1}]\n"
    (folder / "recipe.yaml").write_text(text)
    found = CliRunner().invoke(app, ["validate", str(folder / "recipe.yaml")])
    assert found.exit_code == 2
    for words in ("the task detection has none", "`loss: file.py:name`", "distill.logits"):
        assert words in " ".join(found.output.split())


DETECTOR = """
import torch
from torch import nn

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.ReLU(), nn.Conv2d(16, 6, 1))
        y, x = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
        self.register_buffer("centre", torch.stack([x, y]).flatten(1) * 4 + 2)

    def forward(self, image):
        cells = self.cells(image).flatten(2)
        return torch.cat([self.centre + cells[:, :2], 4 + cells[:, 2:4].abs(), (3 * cells[:, 4:]).sigmoid()], 1)

def make():
    torch.manual_seed(0)
    return Detector()
"""


def test_a_detector_learns_from_the_original_s_boxes(folder: Path) -> None:
    (folder / "net.py").write_text(DETECTOR)
    head = RECIPE.replace(
        "task: segmentation", "task: detection\nmetric: null\ndecode: {use: yolo, score: 0.5, iou: null}"
    )
    stages = "{use: prune.channels, keep: 0.7}, {use: distill.logits, epochs: 4, batch_size: 8, learning_rate: 0.02}"
    report = _run(folder, head.replace("labels: labels", "labels: null") + f"stages: [{stages}]\n")
    (learned,) = [stage["facts"] for stage in report["stages"] if stage["use"] == "distill.logits"]
    assert learned["loss_between_outputs"] == "boxes"
    assert learned["validation"] < 0.7 * learned["validation_before"]
    assert report["backends"][0]["compressed"]["decoded"]["kept"] > 0
