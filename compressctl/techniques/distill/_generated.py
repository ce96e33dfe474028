"""Inputs that look like training data to a network: optimized until its BatchNorms see what they remember."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressctl.core.errors import UsageError
from compressctl.core.events import Events
from compressctl.graph.torch_outputs import named_outputs

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LEARNING_RATE = 0.05
_FIRST_NORM_WEIGHT = 10.0
_SIZE_WEIGHT = 1e-3
_SMOOTHNESS_WEIGHT = 1e-3
_BATCH = 128


def generate(
    network: nn.Module, start: np.ndarray, steps: int, seed: int, events: Events, classes: int | None
) -> np.ndarray:
    """Optimize inputs by Adam; the network stays as it is, in eval mode.

    start: (n, ...) float32, from where each sample begins. classes: how many the network tells apart, so that each sample is
    pulled to one of them; None for other tasks. Raises UsageError when the network has no BatchNorm with statistics.
    Source: Yin et al. 2020, DeepInversion, equations 3 and 4 (without the competition with a student).
    """
    norms = [module for module in network.modules() if isinstance(module, _NORMS) and module.track_running_stats]
    if not norms:
        raise UsageError(
            "inputs are generated from the statistics in BatchNorm layers, and the teacher has none",
            hint="use data_free: random",
        )
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.as_tensor(start[first : first + _BATCH]) for first in range(0, len(start), _BATCH)]
    done = []
    for number, part in enumerate(parts):
        target = None if classes is None else torch.randint(classes, (len(part),), generator=generator)
        done.append(_optimized(network, norms, part.clone(), target, steps, generator))
        events.progress("generating inputs", number + 1, len(parts))
    return torch.cat(done).numpy()


def _optimized(
    network: nn.Module,
    norms: Sequence[nn.Module],
    inputs: Tensor,
    target: Tensor | None,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    inputs.requires_grad_(True)
    optimizer = torch.optim.Adam([inputs], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in range(steps):
        with _watching(norms) as distances:
            outputs = next(iter(named_outputs(network(_moved(inputs, generator))).values()))
            loss = _FIRST_NORM_WEIGHT * distances[0] + sum(distances[1:], start=torch.zeros(()))
        loss = loss + _SIZE_WEIGHT * inputs.square().mean() + _SMOOTHNESS_WEIGHT * _roughness(inputs)
        if target is not None:
            loss = loss + functional.cross_entropy(outputs.float(), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return inputs.detach()


@contextmanager
def _watching(norms: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """How far what the norm layers see is from what they remember, in the order in which they run."""
    distances: list[Tensor] = []

    def watch(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = given[0].float()
        axes = [axis for axis in range(values.ndim) if axis != 1]
        mean, variance = values.mean(dim=axes), values.var(dim=axes, unbiased=False)
        remembered, spread = module.running_mean, module.running_var
        assert isinstance(remembered, Tensor)
        assert isinstance(spread, Tensor)
        # In units of the layer's own deviation, so that no layer counts more because its numbers are larger.
        scale = spread + 1e-5
        distances.append(((mean - remembered).square() / scale).mean() + ((variance / scale) - 1).square().mean())

    with ExitStack() as hooks:
        for module in norms:
            hooks.enter_context(module.register_forward_pre_hook(watch))
        yield distances


def _moved(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Images shifted by up to a sixteenth, all alike: detail that only fits one alignment does not pay."""
    if inputs.ndim != 4:
        return inputs
    most = max(1, inputs.shape[-1] // 16)
    by = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    return inputs.roll(by, dims=(2, 3))


def _roughness(inputs: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels."""
    if inputs.ndim != 4:
        return torch.zeros(())
    return inputs.diff(dim=2).square().mean() + inputs.diff(dim=3).square().mean()
