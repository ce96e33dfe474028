"""Small classifiers that stand behind part of a network."""

from __future__ import annotations

import math
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
        elif mask is None and positions == [2, 3] and all(isinstance(size, int) for size in features.shape[2:]):
            # As pooling where maps have a fixed size: runtimes have better kernels for it, with integers too.
            size = (features.shape[2], features.shape[3])
            both = functional.avg_pool2d(features, size), functional.max_pool2d(features, size)
            of_maps: Tensor = self.linear(torch.cat(both, 1).flatten(1))
            return of_maps
        elif mask is None:
            pooled = features.mean(positions), features.amax(positions)
        else:
            counts = mask.to(features.dtype).unsqueeze(-1)
            total = (features * counts).sum(1) / counts.sum(1).clamp(min=1)
            pooled = total, (features + (counts - 1) * _FAR).amax(1)
        scores: Tensor = self.linear(torch.cat(pooled, -1))
        return scores


class ConvHead(nn.Module):
    """Scores of maps (n, features, height, width): three convolutions on ever smaller maps with more channels, then as PooledHead.

    width: channels of the first, the others have twice as many. stride: of the first; the second has 2. What is near the input has not seen enough of it for its pooled features to tell classes apart. Source: Teerapittayanon et al. 2016, BranchyNet, section III, whose branches hold convolutions.
    """

    def __init__(self, features: int, classes: int, width: int = 32, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        kernel = _kernel(stride)
        self.first = nn.Conv2d(features, width, kernel, stride, kernel // 2, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 2 * width, 3, 2, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(2 * width)
        self.third = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.third_norm = nn.BatchNorm2d(2 * width)
        self.pooled = PooledHead(2 * width, classes)

    @staticmethod
    def macs(features: int, size: tuple[int, int], width: int, stride: int) -> int:
        """Multiply-accumulates of the convolutions on maps of this height and width."""
        first = [math.ceil(one / stride) for one in size]
        positions = math.prod(first), math.prod(math.ceil(one / 2) for one in first)
        return width * (positions[0] * _kernel(stride) ** 2 * features + positions[1] * 9 * 2 * (width + 2 * width))

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
        features = functional.relu(self.third_norm(self.third(features)))
        scores: Tensor = self.pooled(features)
        return scores


def _kernel(stride: int) -> int:
    """Odd, and large enough for no pixel to be left out."""
    return max(3, stride + 1 + stride % 2)


_FAR = 1e4
"""Below any feature."""
