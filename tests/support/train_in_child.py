"""Trains in a process of its own, which a test may kill, alone or together with others; the first one writes."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.warm import Running
from torch import Tensor, nn

from compressctl.core.events import Events
from compressctl.core.source import SplitSizes, metrics
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.recipe.schema import DataSection
from compressctl.sources.builtin import load, untrained
from compressctl.sources.load import load_dataset
from compressctl.sources.params import BuiltinParams, DigitsParams
from compressctl.training.hooks import Hook, StepInfo
from compressctl.training.loop import train
from compressctl.training.objective import task_objective
from compressctl.training.params import TrainingParams


class Stall(Hook):
    """Remembers how many steps it saw, and stands still where the environment says."""

    def __init__(self) -> None:
        self.seen = torch.zeros(())

    def after_step(self, network: nn.Module, moment: StepInfo) -> None:
        self.seen += 1
        if os.environ.get("STALL") == str(moment.step):
            print("stalled", flush=True)
            time.sleep(3600)  # the test kills it

    def state(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.seen = state["seen"]


def main(checkpoints: Path | None, weights: Path, params: dict[str, Any]) -> None:
    """checkpoints: where to keep what a killed training goes on from. Prints the training's facts as JSON.

    STALL in the environment: the step after whose update it says "stalled" and stands still.
    """
    told = dict(params)
    dropout = told.pop("dropout", 0.0)
    run = _run(checkpoints)
    torch.manual_seed(1)
    body = nn.Sequential(untrained("digits-resnet"), nn.Dropout(dropout))
    model = replace(load(BuiltinParams(name="digits-resnet"), Path(), 0), body=body)
    hook = Stall()
    trained = train(model, task_objective("classification"), TrainingParams(**told), run, [hook], checkpoint_seconds=0)
    if os.environ.get("RANK", "0") == "0":
        save_file({**trained.network.state_dict(), "seen": hook.seen}, weights)
        print(json.dumps(trained.facts), flush=True)


def supernet(weights: Path, params: dict[str, Any]) -> None:
    """Trains a supernet of a network that has not learned anything yet. Prints the stage's facts as JSON."""
    from compressctl.techniques.search.params import SupernetParams
    from compressctl.techniques.search.supernet import apply

    torch.manual_seed(1)
    model = replace(load(BuiltinParams(name="digits-resnet"), Path(), 0), body=untrained("digits-resnet"))
    result = apply(model, SupernetParams(**params), replace(_run(None), task="classification"))
    if os.environ.get("RANK", "0") == "0":
        save_file(result.model.body.state_dict(), weights)
        print(json.dumps(result.facts, default=str), flush=True)


def _run(checkpoints: Path | None) -> RunContext:
    sizes = SplitSizes(calibration=100, validation=150, test=1000)
    return RunContext(
        3,
        Events(),
        Path(),
        Target("onnxruntime"),
        data=load_dataset(DataSection("digits", DigitsParams(), sizes), Path(), 0),
        metric=metrics.get("accuracy"),
        checkpoint=checkpoints,
        processes=int(os.environ.get("WORLD_SIZE", "1")),
    )


def until_stalled(*processes: Running) -> None:
    """Wait for what STALL asks for, in all of them."""
    while not all(process.said.read_text() == "stalled\n" for process in processes):
        assert [process.poll() for process in processes] == [None] * len(processes), processes[0].communicate()
        time.sleep(0.05)
