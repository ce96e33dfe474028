"""Feed-forward layers of a network: a linear layer, an activation, and a linear layer that alone reads it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compressctl.core.model import TorchModel
from compressctl.graph.torch_outputs import named_outputs
from compressctl.layers.calls import Call, calls_of
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.sources.modules.experts import ACTIVATIONS
from compressctl.sources.modules.pass_through import PassThrough

_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish",
}  # fmt: skip


@dataclass(frozen=True)
class FeedForward:
    """name: the module that an expert layer takes the place of; where its parts are modules on their own the first of them, and `others` those behind it that pass on what they are given then.
    up, down: names of the linear layers. activation: as in ACTIVATIONS."""

    name: str
    up: str
    down: str
    activation: str
    others: tuple[str, ...] = ()


def feed_forward_layers(model: TorchModel) -> list[FeedForward]:
    """Those whose function was proven on inputs, in the order of the network."""
    network, inputs = model.body.eval(), example_inputs(model.signature)
    seen = calls_of(network, inputs)
    proven = (
        one if one.others else _proven(network, one, seen.get(one.name, []))
        for one in (*_in_rows(network), *_modules(network))
    )
    found = [one for one in proven if one is not None]
    known = {part for one in found for part in (one.up, one.down)}
    apart = [one for one in _apart(network, seen) if not {one.up, one.down} & known]
    order = {name: place for place, (name, _) in enumerate(network.named_modules())}
    return sorted([*found, *_replaceable(network, apart, inputs)], key=lambda one: order[one.up])


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


def _apart(network: nn.Module, seen: Mapping[str, list[Call]]) -> Iterator[FeedForward]:
    """Linear layers in different modules, as in BERT, between which an activation is a module of its own, by the tensors that they hand on."""
    once = {name: calls[0] for name, calls in seen.items() if len(calls) == 1 and calls[0][0]}
    by_input: dict[int, list[str]] = {}
    for name, (args, _, _) in once.items():
        by_input.setdefault(id(args[0]), []).append(name)
    for up, (_, _, made) in once.items():
        if type(network.get_submodule(up)) is not nn.Linear:
            continue
        for active in by_input.get(id(made), []):
            activation = _activation_of(network.get_submodule(active), made, once[active][2])
            if activation is None:
                continue
            readers = by_input.get(id(once[active][2]), [])
            between = [name for name in readers if type(network.get_submodule(name)) in (nn.Dropout, nn.Identity)]
            for down in readers:
                if type(network.get_submodule(down)) is nn.Linear:
                    yield FeedForward(up, up, down, activation, (active, *between, down))


def _activation_of(module: nn.Module, given: Tensor, made: object) -> str | None:
    """Which activation a module without weights computes."""
    if list(module.parameters()) or not isinstance(made, Tensor) or made.shape != given.shape:
        return None
    close = (name for name, one in ACTIVATIONS.items() if torch.allclose(one(given), made, rtol=1e-4, atol=1e-5))
    return next(close, None)


def _replaceable(network: nn.Module, found: list[FeedForward], inputs: Sequence[Tensor]) -> list[FeedForward]:
    """Those in whose place their function alone gives the same: nothing else reads what stands between their two layers."""
    if not found:
        return []
    with torch.no_grad():
        wanted = list(named_outputs(network(*inputs)).values())

    def same(some: list[FeedForward]) -> bool:
        trial = copy.deepcopy(network)
        for one in some:
            up, down = trial.get_submodule(one.up), trial.get_submodule(one.down)
            put(trial, one, _Whole(up, one.activation, down))
        with torch.no_grad():
            made = list(named_outputs(trial(*inputs)).values())
        return all(torch.allclose(*pair, rtol=1e-3, atol=1e-4) for pair in zip(made, wanted, strict=True))

    return found if same(found) else [one for one in found if same([one])]


def put(network: nn.Module, one: FeedForward, module: nn.Module) -> None:
    """The module in a layer's place, in place."""
    for place, part in [(one.name, module), *((other, PassThrough()) for other in one.others)]:
        owner, _, attribute = place.rpartition(".")
        setattr(network.get_submodule(owner), attribute, part)


class _Whole(nn.Module):
    """A feed-forward layer as one module."""

    def __init__(self, up: nn.Module, activation: str, down: nn.Module) -> None:
        super().__init__()
        self.up, self.activation, self.down = up, activation, down

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down(ACTIVATIONS[self.activation](self.up(x)))
        return found


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
