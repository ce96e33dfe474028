"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from compressctl.training import schedule
from compressctl.training.params import TrainingParams


def make_optimizer(modules: Iterable[nn.Module], params: TrainingParams) -> torch.optim.Optimizer:
    """Over all parameters that require gradients; those with one axis (biases, norms) are not decayed."""
    trained = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}.values()
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = params.learning_rate
    match params.optimizer:
        case "sgd":
            nesterov = params.nesterov and params.momentum > 0
            return torch.optim.SGD(groups, lr=rate, momentum=params.momentum, nesterov=nesterov)
        case "adam":
            return torch.optim.Adam(groups, lr=rate)
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, momentum=params.momentum)


def set_step(optimizer: torch.optim.Optimizer, step: int, steps: int, params: TrainingParams) -> None:
    """Give the optimizer the learning rate and momentum of a step."""
    for group in optimizer.param_groups:
        group["lr"] = params.learning_rate * schedule.rate(step, steps, params)
        if params.optimizer == "sgd" and params.momentum > 0:
            group["momentum"] = schedule.momentum(step, steps, params)
