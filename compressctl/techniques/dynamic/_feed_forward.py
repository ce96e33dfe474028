"""Feed-forward layers of a network: a linear layer, an activation, and a linear layer that alone reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compressctl.core.model import TorchModel
from compressctl.layers.calls import Call, calls_of
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.sources.modules.experts import ACTIVATIONS

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish",
}  # fmt: skip


@dataclass(frozen=True)
class FeedForward:
    """name: the module that an expert layer takes the place of; of a part of an nn.Sequential its first, and `others` those behind it that pass on what they are given then.
    up, down: names of the linear layers. activation: as in ACTIVATIONS."""

    name: str
    up: str
    down: str
    activation: str
    others: tuple[str, ...] = ()


def feed_forward_layers(model: TorchModel) -> list[FeedForward]:
    """Those whose function was proven on inputs, in the order of the network."""
    network = model.body.eval()
    found = [*_in_rows(network), *_modules(network)]
    seen = calls_of(network, example_inputs(model.signature))
    proven = (one if one.others else _proven(network, one, seen.get(one.name, [])) for one in found)
    return [one for one in proven if one is not None]


def _in_rows(network: nn.Module) -> Iterator[FeedForward]:
    """Within an nn.Sequential, which runs its modules one after the other; no layer is part of two."""
    for name, module in network.named_modules():
        if type(module) is not nn.Sequential:
            continue
        names = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
        parts, place = list(module.children()), 0
        while place < len(parts):
            end = _end(parts, place)
            if end is None:
                place += 1
                continue
            activation = _activation(parts[place + 1])
            assert activation is not None
            yield FeedForward(names[place], names[place], names[end], activation, tuple(names[place + 1 : end + 1]))
            place = end + 1


def _end(parts: list[nn.Module], place: int) -> int | None:
    """Where the layer ends that begins here."""
    if not isinstance(parts[place], nn.Linear) or place + 2 >= len(parts) or _activation(parts[place + 1]) is None:
        return None
    end = place + 2
    while end < len(parts) and isinstance(parts[end], nn.Dropout | nn.Identity):
        end += 1
    return end if end < len(parts) and isinstance(parts[end], nn.Linear) else None


def _activation(module: nn.Module) -> str | None:
    name = _MODULES.get(type(module))
    return "gelu_tanh" if isinstance(module, nn.GELU) and module.approximate == "tanh" else name


def _modules(network: nn.Module) -> Iterator[FeedForward]:
    """Modules with two linear layers and no other weights, whatever their code does between; which activation it is, calls tell."""
    for name, module in network.named_modules():
        layers = [path for path, part in module.named_children() if isinstance(part, nn.Linear)]
        owned = sum(parameter.numel() for parameter in module.parameters())
        if not name or isinstance(module, nn.Sequential) or len(layers) != 2:
            continue
        first, second = (module.get_submodule(path) for path in layers)
        if first.out_features == second.in_features and owned == sum(
            p.numel() for one in (first, second) for p in one.parameters()
        ):
            yield FeedForward(name, f"{name}.{layers[0]}", f"{name}.{layers[1]}", "")


def _proven(network: nn.Module, one: FeedForward, calls: list[Call]) -> FeedForward | None:
    """With the activation that between its two layers gives what the module gives; None where none does."""
    if len(calls) != 1 or len(calls[0][0]) != 1 or not isinstance(calls[0][2], Tensor):
        return None
    (given,), _, made = calls[0]
    up, down = network.get_submodule(one.up), network.get_submodule(one.down)
    with torch.no_grad():
        for name, activation in ACTIVATIONS.items():
            if torch.allclose(down(activation(up(given))), made, rtol=1e-4, atol=1e-5):
                return replace(one, activation=name)
    return None
