"""The loop that fine-tuning, distillation and quantization-aware training share."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import Model
from compressctl.core.technique import RunContext
from compressctl.training.data import tensor_batches
from compressctl.training.hooks import Hook, KeepZeros, Moment
from compressctl.training.objective import Objective
from compressctl.training.params import TrainingParams


@dataclass(frozen=True)
class Trained:
    """network: in eval mode on the CPU. facts: ready for JSON: loss per epoch, scores, seconds, samples per second."""

    network: nn.Module
    facts: Mapping[str, Any] = field(default_factory=dict)


def train(
    model: Model, objective: Objective, params: TrainingParams, run: RunContext, hooks: Sequence[Hook] = ()
) -> Trained:
    """Train model.body in place: give it a copy. Zeros of `model.sparse` stay.

    The same seed gives the same weights. Raises UsageError without training samples, StageError when the loss is no number.
    """
    split = run.data.split("train") if run.data is not None else None
    if split is None or len(split) == 0:
        raise UsageError("training needs samples, and the train split is empty", hint="leave some samples in the data")
    torch.manual_seed(run.seed)
    accelerator = Accelerator(cpu=run.target.device == "cpu", mixed_precision=_mixed(params))
    network: nn.Module = model.body
    optimizer = _optimizer(network, params)
    steps = params.epochs * math.ceil(len(split) / params.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, params))
    prepared, optimizer = accelerator.prepare(network, optimizer)
    everything = [KeepZeros(network, model.sparse), *hooks]
    losses: list[float] = []
    started, step = time.perf_counter(), 0
    for epoch in range(params.epochs):
        prepared.train()
        total, count = 0.0, 0
        for batch in tensor_batches(split, model.signature, params.batch_size, shuffle_seed=run.seed + epoch):
            with accelerator.autocast():
                loss = objective(prepared, batch)
            if not math.isfinite(loss.item()):
                raise StageError(f"the loss became {loss.item()} in epoch {epoch + 1}", hint="lower learning_rate")
            optimizer.zero_grad()
            accelerator.backward(loss)
            moment = Moment(step, steps, epoch)
            _call(everything, "before_step", network, moment)
            if params.clip_norm is not None:
                accelerator.clip_grad_norm_(prepared.parameters(), params.clip_norm)
            optimizer.step()
            schedule.step()
            _call(everything, "after_step", network, moment)
            total, count, step = total + loss.item() * len(batch.inputs[0]), count + len(batch.inputs[0]), step + 1
            run.events.progress(f"epoch {epoch + 1}/{params.epochs}, loss {total / count:.3f}", step, steps)
        losses.append(total / count)
        _call(everything, "after_epoch", network, Moment(step - 1, steps, epoch))
    network.eval()
    return Trained(network, {"epochs": params.epochs, "loss": losses, "seconds": time.perf_counter() - started})


def _call(hooks: Iterable[Hook], name: str, network: nn.Module, moment: Moment) -> None:
    for hook in hooks:
        getattr(hook, name)(network, moment)


def _mixed(params: TrainingParams) -> str:
    return {"float32": "no", "bfloat16": "bf16"}[params.precision]


def _optimizer(network: nn.Module, params: TrainingParams) -> torch.optim.Optimizer:
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": params.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=params.learning_rate, momentum=0.9, nesterov=True)
    kind = torch.optim.Adam if params.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=params.learning_rate)


def _rate(step: int, steps: int, params: TrainingParams) -> float:
    """Share of the learning rate at a step."""
    rising = max(1, round(params.warmup * steps))
    if params.warmup and step < rising:
        return (step + 1) / (rising + 1)
    left = 1.0 - min(1.0, (step - rising) / max(1, steps - rising))
    if params.schedule == "constant":
        return 1.0
    return left if params.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
