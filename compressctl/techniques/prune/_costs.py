"""What a network's convolutions, linear and recurrent layers cost, before a cut and, without making it, after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.layers.channels.dependency_groups import GIVES_CHANNELS, Group
from compressctl.layers.channels.recurrent import weight_sizes
from compressctl.layers.channels.surgery import channels, removal, size_after
from compressctl.techniques.prune.params import Budgeted


@dataclass(frozen=True)
class Layer:
    """positions: how often, for one sample, the weight is multiplied: pixels, tokens or steps, over all calls."""

    module: nn.Module
    positions: int


def layers(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Layer]:
    """Every convolution, linear and recurrent layer that runs on these inputs, by name."""
    found: dict[str, int] = {}

    def count(name: str, module: nn.Module, given: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(module, nn.RNNBase):
            steps = given[0].shape[1 if module.batch_first else 0] if isinstance(given[0], Tensor) else 1
            found[name] = found.get(name, 0) + steps
            return
        # A transposed convolution multiplies its weight for each pixel that it reads.
        reads = isinstance(module, nn.modules.conv._ConvNd) and module.transposed
        value, width = (given[0], channels(module, "in")) if reads else (output, channels(module, "out"))
        found[name] = found.get(name, 0) + value.numel() // (len(value) * width)

    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, (*GIVES_CHANNELS, nn.RNNBase)):
                hooks.enter_context(module.register_forward_hook(partial(count, name)))
        network(*inputs)
    return {name: Layer(network.get_submodule(name), positions) for name, positions in found.items()}


def macs(measured: Mapping[str, Layer]) -> int:
    """Multiply-accumulates for one sample; biases and products of two activations count nothing."""
    return int(cost("macs", measured, (), {}))


def cost(
    of: Budgeted, measured: Mapping[str, Layer], groups: Sequence[Group], units: Mapping[str, np.ndarray]
) -> float:
    """What is left of macs, parameters or channels when these units go (see `removal`)."""
    gone = removal(groups, units)
    total = 0
    for name, layer in measured.items():
        if isinstance(layer.module, nn.RNNBase):
            if of == "channels":
                total += layer.module.hidden_size - len(gone.get((f"{name}.weight_hh_l0", "values", 1), ()))
            else:
                total += weight_sizes(layer.module, name, gone) * (layer.positions if of == "macs" else 1)
            continue
        out, into = len(gone.get((name, "out", 0), ())), len(gone.get((name, "in", 0), ()))
        if of == "channels":
            total += channels(layer.module, "out") - out
            continue
        total += size_after(layer.module, out, into) * (layer.positions if of == "macs" else 1)
    return float(total)


def widths(network: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, hidden units of recurrent ones."""
    return {
        name: module.hidden_size if isinstance(module, nn.RNNBase) else channels(module, "out")
        for name, module in network.named_modules()
        if isinstance(module, (*GIVES_CHANNELS, nn.RNNBase))
    }


def change(before: nn.Module, after: nn.Module, inputs: Sequence[Tensor]) -> dict[str, dict[str, int]]:
    """Facts for the report: what a cut made of multiply-accumulates and parameters."""
    networks = {"before": before, "after": after}
    return {
        "macs": {when: macs(layers(network, inputs)) for when, network in networks.items()},
        "parameters": {when: sum(each.numel() for each in network.parameters()) for when, network in networks.items()},
    }
