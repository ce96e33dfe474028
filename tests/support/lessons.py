"""What a distillation stage is given, on scikit-learn's digits."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from compressctl.core.data import Dataset
from compressctl.core.events import Event, Events
from compressctl.core.model import Model
from compressctl.core.source import SplitSizes, metrics
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.sources import builtin, digits
from compressctl.sources.params import BuiltinParams, DigitsParams

SMALL = """
from torch import nn

def small(width=16, classes=10):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    )

def flat(width=16):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * width, 10),
    )
"""


@cache
def digits_data() -> Dataset:
    return digits.load(DigitsParams(), SplitSizes(), Path(), 0)


def digits_teacher() -> Model:
    return builtin.load(BuiltinParams(name="digits-resnet"), Path(), 0)


@cache
def _lowered() -> Model:
    from compressctl.graph.lower import lower

    return lower(digits_teacher())


def lowered_teacher() -> Model:
    """The same as an ONNX graph, a copy each time."""
    return copy.deepcopy(_lowered())


def context(folder: Path, original: Model, **more: Any) -> tuple[RunContext, list[str]]:
    """A stage's context in a folder that holds small.py, and the warnings that it will have given."""
    (folder / "small.py").write_text(SMALL)
    warnings: list[str] = []

    def listen(event: Event) -> None:
        if event.kind == "warning":
            warnings.append(event.fields["message"])

    run = RunContext(
        seed=0,
        events=Events(listen),
        folder=folder,
        target=Target("onnxruntime"),
        data=digits_data(),
        original=lambda: replace(original, body=copy.deepcopy(original.body)),
        metric=metrics.get("accuracy"),
        base=folder,
    )
    return replace(run, **more), warnings
