"""Whether a network with adapters computes what it will with their products in the weights: code around a layer may read its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compressctl.graph.torch_outputs import named_outputs
from compressctl.training.lora.low_rank import LowRank, change_of, merged_weight

_SIZE = 0.1
"""Norm of the products that are tried, over the norm of the weights."""

_ROUNDING = 1e-4
"""Difference that sums in another order may make, over the outputs' size. A layer whose product is not seen makes more."""


def misread(network: nn.Module, layers: Mapping[str, LowRank], samples: Sequence[Tensor]) -> list[str]:
    """The layers, by path, that the network also uses past their adapters. Everything is as before afterwards.

    All are tried at once with random products, one by one only where that fails.
    """
    if not layers or _is_faithful(network, layers, samples):
        return []
    alone = [path for path, layer in layers.items() if not _is_faithful(network, {path: layer}, samples)]
    return alone or list(layers)


def _is_faithful(network: nn.Module, layers: Mapping[str, LowRank], samples: Sequence[Tensor]) -> bool:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_b.copy_(torch.randn(layer.lora_b.shape, generator=generator))
            layer.lora_b.mul_(_SIZE * layer.weight.norm() / change_of(layer).norm().clamp(min=1e-12))
        try:
            adapted = named_outputs(network(*samples))
            merged = named_outputs(functional_call(network, _merged(layers), tuple(samples)))
        except Exception:
            return False  # the plain network runs on these samples: it does not with adapters
        finally:
            for layer in layers.values():
                layer.lora_b.zero_()
    return all(_is_near(adapted[name], output) for name, output in merged.items())


def _merged(layers: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """What the network is called with in place of its parameters: the products in the weights, and no products beside them."""
    found: dict[str, Tensor] = {}
    for path, layer in layers.items():
        prefix = f"{path}." if path else ""
        found |= {f"{prefix}weight": merged_weight(layer), f"{prefix}lora_b": torch.zeros_like(layer.lora_b)}
    return found


def _is_near(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return True
    size = float(other.abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
    return bool(((one - other).abs().nan_to_num(0, 0, 0) <= _ROUNDING * size + 1e-7).all())
