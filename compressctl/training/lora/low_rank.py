"""Layers whose weight is frozen and has a trained product of low rank beside it, and the weight that the two make.

A layer changes its class, as `torch.nn.utils.parametrize` does, and not its place: its parameters keep their names, so that
what holds zeros or writes checkpoints finds them, and what is trained stands beside them. Unlike a parametrization it can
drop inputs of the product alone, and never forms the gradient of the whole weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from compressctl.training.params import Lora


class LowRank(nn.Module):
    """Computes with weight + (alpha / rank) B A.

    lora_a: A, (groups * rank, in / groups, *kernel). lora_b: B, (out, rank); of a layer with groups each has a product of its
    own. lora_scale: alpha / rank. is_masked: whether weights that are zero stay so.
    """

    weight: Tensor
    bias: Any
    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float
    lora_dropout: float
    lora_hook: RemovableHandle
    is_masked: bool

    def forward(self, input: Tensor) -> Tensor:
        is_dropping = self.training and self.lora_dropout > 0
        dropped = functional.dropout(input, self.lora_dropout) if is_dropping else input
        if not self.is_masked:
            return self._computed(input, self.weight, self.bias) + self._product(dropped)
        if is_dropping:
            return self._computed(input, self.weight, self.bias) + self._computed(dropped, change_of(self), None)
        return self._computed(input, self.weight + change_of(self), self.bias)

    def _computed(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer makes of its input with a weight."""
        raise NotImplementedError

    def _product(self, input: Tensor) -> Tensor:
        """B A input, without forming B A."""
        raise NotImplementedError


class LowRankLinear(LowRank, nn.Linear):
    def _computed(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(input, weight, bias)

    def _product(self, input: Tensor) -> Tensor:
        return functional.linear(functional.linear(input, self.lora_a), self.lora_b * self.lora_scale)


class _LowRankConv(LowRank):
    """A is a convolution like the layer's with `rank` channels for each group, B one of kernel 1."""

    groups: int
    _conv_forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def _computed(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(input, weight, bias)

    def _product(self, input: Tensor) -> Tensor:
        axes = self.weight.ndim - 2
        kernel = (self.lora_b * self.lora_scale).reshape(*self.lora_b.shape, *[1] * axes)
        return _CONVOLVE[axes](self._conv_forward(input, self.lora_a, None), kernel, groups=self.groups)


class LowRankConv1d(_LowRankConv, nn.Conv1d): ...


class LowRankConv2d(_LowRankConv, nn.Conv2d): ...


class LowRankConv3d(_LowRankConv, nn.Conv3d): ...


_CONVOLVE: Mapping[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}

ADAPTED: Mapping[type[nn.Module], type[LowRank]] = {
    nn.Linear: LowRankLinear,
    nn.Conv1d: LowRankConv1d,
    nn.Conv2d: LowRankConv2d,
    nn.Conv3d: LowRankConv3d,
}
"""The layers that can have a product beside their weight. A subclass may use its weight in another way."""

_PLAIN: Mapping[type[nn.Module], type[nn.Module]] = {adapted: plain for plain, adapted in ADAPTED.items()}


def full_rank(layer: nn.Module) -> int:
    """The largest rank that the layer's weight can have; of a layer with groups, the weight of one group."""
    weight = layer.get_parameter("weight")
    return min(len(weight) // _groups(layer), math.prod(weight.shape[1:]))


def attach(layer: nn.Module, lora: Lora, generator: torch.Generator, *, is_masked: bool) -> LowRank:
    """Make a layer of one of the plain classes a LowRank one, in place; it computes what it did. Its weight must not be trained.

    A is Kaiming uniform as in the authors' code, bounds +- 1 / sqrt(inputs), B zero. Source: Hu et al. 2021, section 4.1.
    """
    weight = layer.get_parameter("weight")
    layer.__class__ = ADAPTED[type(layer)]
    assert isinstance(layer, LowRank)
    bound = math.prod(weight.shape[1:]) ** -0.5
    drawn = torch.rand((_groups(layer) * lora.rank, *weight.shape[1:]), generator=generator) * 2 * bound - bound
    layer.lora_a = nn.Parameter(drawn.to(weight))
    layer.lora_b = nn.Parameter(weight.new_zeros(len(weight), lora.rank))
    layer.lora_scale, layer.lora_dropout, layer.is_masked = lora.alpha / lora.rank, lora.dropout, is_masked
    # torch's encoder layers compute with their parts' weights themselves, past this class, unless a part has a hook.
    layer.lora_hook = layer.register_forward_pre_hook(_nothing)
    return layer


def detach(layer: LowRank) -> None:
    """Make it the plain layer again, without the product."""
    layer.lora_hook.remove()
    for name in ("lora_a", "lora_b", "lora_scale", "lora_dropout", "is_masked", "lora_hook"):
        delattr(layer, name)
    layer.__class__ = _PLAIN[type(layer)]  # type: ignore[assignment]


def merge(layers: Iterable[LowRank]) -> None:
    """Make them plain layers whose weights hold the products."""
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(merged_weight(layer))
        detach(layer)


def merged_weight(layer: LowRank) -> Tensor:
    """weight + (alpha / rank) B A, added in float64."""
    with torch.no_grad():
        return (layer.weight.double() + change_of(layer, torch.float64)).to(layer.weight.dtype)


def change_of(layer: LowRank, dtype: torch.dtype | None = None) -> Tensor:
    """(alpha / rank) B A in the shape of the weight, zero where a masked layer's weight is.

    Source of the mask: Zimmer et al. 2023, PERP (MaskLoRA), so that zeros survive the merge.
    """
    groups, rank = _groups(layer), layer.lora_b.shape[1]
    a, b = layer.lora_a.to(dtype or layer.lora_a.dtype), layer.lora_b.to(dtype or layer.lora_b.dtype)
    product = (b * layer.lora_scale).reshape(groups, -1, rank) @ a.reshape(groups, rank, -1)
    change = product.reshape(layer.weight.shape)
    return change * (layer.weight != 0) if layer.is_masked else change


def _groups(layer: nn.Module) -> int:
    groups: Any = getattr(layer, "groups", 1)
    return int(groups)


def _nothing(*_: Any) -> None:
    return None
