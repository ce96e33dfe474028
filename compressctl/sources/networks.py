"""The built-in networks for 8x8 digits: small, but with the parts that real ones have."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

CLASSES = 10


def digits_resnet() -> nn.Module:
    """A residual network (He et al. 2015, basic blocks): 142 thousand parameters, three resolutions."""
    return _named(
        stem=_conv(1, 32, nn.ReLU),
        block1=BasicBlock(32, 32),
        block2=BasicBlock(32, 32),
        block3=BasicBlock(32, 48, stride=2),
        block4=BasicBlock(48, 64, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(64, CLASSES),
    )


def digits_depthwise() -> nn.Module:
    """Inverted residuals with ReLU6 (MobileNetV2, Sandler et al. 2018, section 3.3): 96 thousand parameters."""
    return _named(
        stem=_conv(1, 24, nn.ReLU6),
        block1=InvertedResidual(24, 24),
        block2=InvertedResidual(24, 40, stride=2),
        block3=InvertedResidual(40, 40),
        block4=InvertedResidual(40, 64, stride=2),
        block5=InvertedResidual(64, 64),
        head=_conv(64, 160, nn.ReLU6, kernel=1),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(160, CLASSES),
    )


class BasicBlock(nn.Module):
    """relu(shortcut(x) + conv(conv(x))), each convolution 3x3 with BatchNorm; a 1x1 shortcut where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, width, nn.ReLU, stride=stride),
            _conv(width, width, nn.Identity),
        )
        keeps_shape = stride == 1 and channels == width
        self.shortcut = nn.Identity() if keeps_shape else _conv(channels, width, nn.Identity, kernel=1, stride=stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.body(x) + self.shortcut(x))
        return y


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel by 3x3, narrow by 1x1 without activation; added to x where the shape stays."""

    def __init__(self, channels: int, width: int, stride: int = 1, expansion: int = 4) -> None:
        super().__init__()
        inner = channels * expansion
        self.body = nn.Sequential(
            _conv(channels, inner, nn.ReLU6, kernel=1),
            _conv(inner, inner, nn.ReLU6, stride=stride, groups=inner),
            _conv(inner, width, nn.Identity, kernel=1),
        )
        self.is_residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.is_residual else y


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, activation."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


def _conv(channels: int, width: int, act: Any, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> ConvNorm:
    conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return ConvNorm(conv, act())


def _named(**layers: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(layers))
