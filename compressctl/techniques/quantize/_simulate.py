"""A network whose layers compute with rounded weights and inputs, and back.

BatchNorm needs no folding here: a scale for each output channel moves through the channel's rounding, round(f w / (f s)) is
round(w / s), so that the folded weight of the exported file has the codes that training rounded to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


class WeightRounding(nn.Module):
    """Gives, for a layer's weight, the one that it computes with, of the same shape; gradients reach the former."""

    def values(self, weight: Tensor) -> Tensor:
        """What is exported: the same numbers, exactly on their grid and without gradients."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rounding:
    """input: gives what the layer reads, rounded; None for float. Layers that read one tensor may share it."""

    weight: WeightRounding
    input: nn.Module | None = None


def layers_of(network: nn.Module) -> dict[str, Layer]:
    """By path, each layer once, whose weight can be rounded: one of torch's own, and nothing else reads or changes it."""
    readers: dict[int, int] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            readers[id(parameter)] = readers.get(id(parameter), 0) + 1
    return {
        name: module
        for name, module in network.named_modules()
        # A subclass may compute something else with its weight.
        if type(module) in _ROUNDED and isinstance(module, Layer) and _is_alone(module, readers)
    }


def _is_alone(layer: Layer, readers: Mapping[int, int]) -> bool:
    weight = layer._parameters.get("weight")
    return weight is not None and readers[id(weight)] == 1 and not (layer._forward_hooks or layer._forward_pre_hooks)


def install(network: nn.Module, roundings: Mapping[str, Rounding]) -> dict[str, Layer]:
    """Put roundings into the layers at these paths, in place; parameters keep their names.

    Returns the plain layers by path, which share their parameters with what took their places.
    """
    plain = layers_of(network)
    for path, rounding in roundings.items():
        _put(network, plain[path], _rounded(plain[path], rounding))
    return {path: plain[path] for path in roundings}


def remove(network: nn.Module, plain: Mapping[str, Layer], weights: Mapping[str, Tensor]) -> None:
    """Put the plain layers back, in place, with these weights."""
    for path, layer in plain.items():
        _put(network, network.get_submodule(path), layer)
        with torch.no_grad():
            layer.weight.copy_(weights[path])


def _rounded(plain: Layer, rounding: Rounding) -> nn.Module:
    if isinstance(plain, nn.Linear):
        made: RoundedLayer = _Linear(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta")
    else:
        made = _ROUNDED[type(plain)](
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size,
            plain.stride,
            plain.padding,
            plain.dilation,
            plain.groups,
            bias=plain.bias is not None,
            padding_mode=plain.padding_mode,
            device="meta",
        )
    for name, parameter in plain.named_parameters():
        made.register_parameter(name, parameter)
    made.weight_rounding, made.input_rounding = rounding.weight, rounding.input
    return made


class RoundedLayer(nn.Module):
    """What a layer is made to compute with."""

    weight_rounding: WeightRounding
    input_rounding: nn.Module | None

    def rounded_input(self, x: Tensor) -> Tensor:
        return x if self.input_rounding is None else self.input_rounding(x)


class _Linear(nn.Linear, RoundedLayer):
    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(self.rounded_input(input), self.weight_rounding(self.weight), self.bias)


class _Conv(RoundedLayer):
    def forward(self, input: Tensor) -> Tensor:
        assert isinstance(self, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        y: Tensor = self._conv_forward(self.rounded_input(input), self.weight_rounding(self.weight), self.bias)
        return y


class _Conv1d(_Conv, nn.Conv1d): ...


class _Conv2d(_Conv, nn.Conv2d): ...


class _Conv3d(_Conv, nn.Conv3d): ...


_ROUNDED: Mapping[type[nn.Module], Callable[..., RoundedLayer]] = {
    nn.Linear: _Linear,
    nn.Conv1d: _Conv1d,
    nn.Conv2d: _Conv2d,
    nn.Conv3d: _Conv3d,
}


def _put(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """At every place where the old module is: one layer may have several names."""
    places = [(parent, name) for parent in network.modules() for name, child in parent._modules.items() if child is old]
    for parent, name in places:
        setattr(parent, name, new)
    new.train(old.training)
