"""Cheaper layers that a layer may become, each begun as near to what it computes as their form allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from compressctl.numerics.tucker import hosvd
from compressctl.techniques.search.params import Cheaper

_MOST = 0.75
"""Share of a layer's multiply-accumulates that a cheaper one takes at most."""

_KERNEL = 8
"""Channels inside are multiples of this, as kernels compute them."""


def is_replaceable(layer: nn.Module) -> bool:
    """Whether its class is known, with whatever it computes in plain sight."""
    if type(layer) is nn.Conv2d:
        plain = isinstance(layer.padding, tuple) and layer.padding_mode == "zeros" and layer.groups == 1
        return plain and max(layer.kernel_size) > 1
    return type(layer) is nn.Linear


def cheaper(layer: nn.Module, kinds: Sequence[Cheaper]) -> dict[Cheaper, nn.Module]:
    """Those of these kinds that take less of the arithmetic. The layer stays as it is."""
    made: dict[Cheaper, nn.Module] = {}
    for kind in kinds:
        build = _BUILDERS.get(kind)
        one = None if build is None else build(layer)
        if one is not None and _work(one) <= _MOST * _work(layer):
            made[kind] = one.to(next(layer.parameters()))
    return made


def _work(layer: nn.Module) -> int:
    """Weights, each of which meets every position: what is in front of a stride is computed at more of them."""
    total, strides = 0, 1
    for part in reversed(list(layer.modules())):
        if isinstance(part, nn.Conv2d):
            total += part.weight.numel() * strides
            strides *= part.stride[0] * part.stride[1]
        elif isinstance(part, nn.Linear):
            total += part.weight.numel()
    return total


def _separable(layer: nn.Module) -> nn.Module | None:
    """A kernel for each input channel, then their sums: of each channel's matrix (outputs, kernel) the first singular vectors.

    Source: Howard et al. 2017, MobileNets, section 3.1: depthwise separable convolutions.
    """
    if not isinstance(layer, nn.Conv2d):
        return None
    weight = layer.weight.detach().double()
    left, sizes, right = torch.linalg.svd(weight.permute(1, 0, 2, 3).flatten(2), full_matrices=False)
    root = sizes[:, :1].sqrt()
    inside, outputs = layer.in_channels, layer.out_channels
    depthwise = nn.Conv2d(
        inside, inside, _two(layer.kernel_size), _two(layer.stride), _two(layer.padding), _two(layer.dilation), inside, bias=False
    )  # fmt: skip
    pointwise = nn.Conv2d(inside, outputs, 1, bias=layer.bias is not None)
    with torch.no_grad():
        depthwise.weight.copy_((right[:, 0] * root).reshape(depthwise.weight.shape))
        pointwise.weight.copy_((left[:, :, 0] * root).T.reshape(pointwise.weight.shape))
        _copy_bias(layer, pointwise)
    return nn.Sequential(depthwise, pointwise)


def _bottleneck(layer: nn.Module) -> nn.Module | None:
    """The kernel between a quarter of the channels: the truncated higher-order SVD of its weight.

    Source: Kim et al. 2016, Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications, section 3.
    """
    if not isinstance(layer, nn.Conv2d):
        return None
    outer, inner = (_multiple(channels / 4) for channels in (layer.out_channels, layer.in_channels))
    if outer >= layer.out_channels or inner >= layer.in_channels:
        return None
    parts = hosvd(layer.weight.detach().double().numpy())
    first = nn.Conv2d(layer.in_channels, inner, 1, bias=False)
    core = nn.Conv2d(
        inner, outer, _two(layer.kernel_size), _two(layer.stride), _two(layer.padding), _two(layer.dilation), bias=False
    )
    last = nn.Conv2d(outer, layer.out_channels, 1, bias=layer.bias is not None)
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(parts.right[:, :inner].T.copy())[..., None, None])
        core.weight.copy_(torch.from_numpy(parts.core[:outer, :inner].copy()))
        last.weight.copy_(torch.from_numpy(parts.left[:, :outer].copy())[..., None, None])
        _copy_bias(layer, last)
    return nn.Sequential(first, core, last)


def _low_rank(layer: nn.Module) -> nn.Module | None:
    """Two thinner ones with half of the arithmetic: the truncated SVD of its weight."""
    if not isinstance(layer, nn.Linear):
        return None
    inside, outputs = layer.in_features, layer.out_features
    rank = _multiple(0.5 * inside * outputs / (inside + outputs))
    left, sizes, right = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    if rank >= len(sizes):
        return None
    first, last = nn.Linear(inside, rank, bias=False), nn.Linear(rank, outputs, bias=layer.bias is not None)
    with torch.no_grad():
        root = sizes[:rank].sqrt()
        first.weight.copy_(root[:, None] * right[:rank])
        last.weight.copy_(left[:, :rank] * root)
        _copy_bias(layer, last)
    return nn.Sequential(first, last)


_BUILDERS: Mapping[str, Callable[[nn.Module], nn.Module | None]] = {
    "separable": _separable, "bottleneck": _bottleneck, "low_rank": _low_rank,
}  # fmt: skip


def _multiple(channels: float) -> int:
    return max(_KERNEL, _KERNEL * round(channels / _KERNEL))


def _two(sizes: int | str | tuple[int, ...]) -> tuple[int, int]:
    assert isinstance(sizes, tuple)
    return sizes[0], sizes[1]


def _copy_bias(before: nn.Conv2d | nn.Linear, after: nn.Conv2d | nn.Linear) -> None:
    if before.bias is not None and after.bias is not None:
        after.bias.copy_(before.bias)
