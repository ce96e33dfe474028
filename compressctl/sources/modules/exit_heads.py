"""Small classifiers that stand behind part of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class PooledHead(nn.Module):
    """Scores of features: their mean and their largest over all positions, then one linear layer.

    axis: of the features' channels, 1 of maps (n, channels, ...), -1 of tokens (n, ..., channels). Source: Kaya et al. 2019, Shallow-Deep Networks,
    section 4, which mixes both ways of pooling.
    """

    def __init__(self, features: int, classes: int, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis
        self.linear = nn.Linear(2 * features, classes)

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {"features": self.linear.in_features // 2, "classes": self.linear.out_features, "axis": self.axis}

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: (n, tokens), 1 where a token counts."""
        axis = self.axis % features.ndim
        positions = [place for place in range(1, features.ndim) if place != axis]
        if not positions:
            pooled = features, features
        elif mask is None:
            pooled = features.mean(positions), _largest(features, positions)
        else:
            counts = mask.to(features.dtype).unsqueeze(-1)
            total = (features * counts).sum(1) / counts.sum(1).clamp(min=1)
            pooled = total, (features + (counts - 1) * _FAR).amax(1)
        scores: Tensor = self.linear(torch.cat(pooled, -1))
        return scores


class ConvHead(nn.Module):
    """Scores of maps (n, features, height, width): two convolutions, the first with a stride, then as PooledHead.

    What is near the input has not seen enough of it for its pooled features to tell classes apart. Source: Teerapittayanon et al. 2016, BranchyNet, section III, whose branches hold convolutions.
    """

    def __init__(self, features: int, classes: int, width: int = 32, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        kernel = max(3, stride + 1 + stride % 2)
        self.first = nn.Conv2d(features, width, kernel, stride, kernel // 2, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.pooled = PooledHead(width, classes)

    @property
    def linear(self) -> nn.Linear:
        return self.pooled.linear

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {
            "features": self.first.in_channels,
            "classes": self.linear.out_features,
            "width": self.first.out_channels,
            "stride": self.stride,
        }

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        features = functional.relu(self.first_norm(self.first(features)))
        features = functional.relu(self.second_norm(self.second(features)))
        scores: Tensor = self.pooled(features)
        return scores


def _largest(features: Tensor, positions: list[int]) -> Tensor:
    """As pooling where maps have a fixed size: runtimes have better kernels for it, with integers too."""
    if positions == [2, 3] and all(isinstance(size, int) for size in features.shape[2:]):
        return functional.max_pool2d(features, (features.shape[2], features.shape[3])).flatten(1)
    return features.amax(positions)


_FAR = 1e4
"""Below any feature."""
