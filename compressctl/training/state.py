"""Where a training is, and how that becomes tensors and plain values for a checkpoint and comes back exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.training.hooks import Hook
from compressctl.training.moving_average import MovingAverage


@dataclass
class Position:
    """epoch, batch: what comes next, from 0. step: optimizer steps done. total: of losses in this epoch, over count samples.

    losses, scores: of finished epochs. before: the score at the start. kept: the best epoch from 1, 0 for the start, None
    as long as there is none. stale: epochs since the score improved. seconds: worked, over all processes' lives.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    total: float = 0.0
    count: int = 0
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    before: float | None = None
    kept: int | None = None
    kept_score: float | None = None
    stale: int = 0
    seconds: float = 0.0
    is_finished: bool = False


@dataclass
class TrainingState:
    """Everything that decides how a training goes on. best: the kept epoch's tensors. objective: when it has weights."""

    network: nn.Module
    objective: nn.Module | None
    optimizer: torch.optim.Optimizer
    hooks: Sequence[Hook]
    average: MovingAverage | None
    position: Position = field(default_factory=Position)
    best: dict[str, Tensor] | None = None


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, those that a state dict leaves out too, by name."""
    return {name: tensor.detach().clone() for name, tensor in _tensors(network).items()}


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put values into parameters and buffers of the same names, which keep their layout in memory and their device."""
    with torch.no_grad():
        for name, tensor in _tensors(network).items():
            tensor.copy_(tensors[name])


def pack(state: TrainingState) -> dict[str, Tensor]:
    """Everything but the position as tensors, named "network/...", "optimizer/<parameter>/<what>", and so on."""
    found = {f"network/{name}": tensor for name, tensor in _tensors(state.network).items()}
    if state.objective is not None:
        found |= {f"objective/{name}": tensor for name, tensor in _trained_tensors(state.objective).items()}
    for number, entries in state.optimizer.state_dict()["state"].items():
        found |= {
            f"optimizer/{number}/{name}": torch.as_tensor(value) for name, value in entries.items() if value is not None
        }
    for number, hook in enumerate(state.hooks):
        found |= {f"hook{number}/{name}": tensor for name, tensor in hook.state().items()}
    if state.average is not None:
        found |= {f"average/{name}": tensor for name, tensor in state.average.tensors.items()}
    if state.best is not None:
        found |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    found["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        found["random/cuda"] = torch.cuda.get_rng_state()
    return found


def unpack(state: TrainingState, tensors: Mapping[str, Tensor]) -> None:
    """Into a state that was just begun, what `pack` took out of it."""
    fill(state.network, _under("network/", tensors))
    if state.objective is not None:
        with torch.no_grad():
            for name, tensor in _trained_tensors(state.objective).items():
                tensor.copy_(tensors[f"objective/{name}"])
    _restore_optimizer(state.optimizer, _under("optimizer/", tensors))
    for number, hook in enumerate(state.hooks):
        hook.restore(_under(f"hook{number}/", tensors))
    if state.average is not None:
        state.average.restore(_under("average/", tensors))
    best = _under("best/", tensors)
    if best:
        own = snapshot(state.network)
        state.best = {name: own[name].copy_(tensor) for name, tensor in best.items()}
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Each tensor in its parameter's layout: sums over another layout may round differently."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        number, _, what = name.partition("/")
        like = parameters[int(number)]
        value = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        entries.setdefault(int(number), {})[what] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _trained_tensors(objective: nn.Module) -> dict[str, Tensor]:
    """Without a teacher's weights, which do not change."""
    trained = {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}
    return {**trained, **dict(objective.named_buffers())}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
