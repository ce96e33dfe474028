"""What a network's convolutions and linear layers cost, before a cut and, without making it, after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.layers.channels.dependency_groups import GIVES_CHANNELS, Group
from compressctl.layers.channels.surgery import channels, removal, size_after
from compressctl.techniques.prune.params import Budgeted


@dataclass(frozen=True)
class Layer:
    """positions: how often, for one sample, the weight is multiplied: pixels or tokens, over all calls."""

    module: nn.Module
    positions: int


def layers(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Layer]:
    """Every convolution and linear layer that runs on these inputs, by name."""
    found: dict[str, int] = {}
    hooks = []

    def counting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def count(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            # A transposed convolution multiplies its weight for each pixel that it reads.
            reads = isinstance(module, nn.modules.conv._ConvNd) and module.transposed
            value, width = (given[0], channels(module, "in")) if reads else (output, channels(module, "out"))
            found[name] = found.get(name, 0) + value.numel() // (len(value) * width)

        return count

    for name, module in network.named_modules():
        if isinstance(module, GIVES_CHANNELS):
            hooks.append(module.register_forward_hook(counting(name)))
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: Layer(network.get_submodule(name), positions) for name, positions in found.items()}


def macs(measured: Mapping[str, Layer]) -> int:
    """Multiply-accumulates for one sample; biases and products of two activations count nothing."""
    return sum(layer.positions * size_after(layer.module, 0, 0) for layer in measured.values())


def cost(
    of: Budgeted, measured: Mapping[str, Layer], groups: Sequence[Group], units: Mapping[str, np.ndarray]
) -> float:
    """What is left of macs, parameters or channels when these units go (see `removal`)."""
    gone = removal(groups, units)
    total = 0
    for name, layer in measured.items():
        out, into = len(gone.get((name, "out", 0), ())), len(gone.get((name, "in", 0), ()))
        if of == "channels":
            total += channels(layer.module, "out") - out
            continue
        total += size_after(layer.module, out, into) * (layer.positions if of == "macs" else 1)
    return float(total)


def widths(network: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer."""
    return {name: channels(m, "out") for name, m in network.named_modules() if isinstance(m, GIVES_CHANNELS)}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
