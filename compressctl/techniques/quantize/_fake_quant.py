"""Numbers rounded as a runtime will round them, with gradients: what quantization-aware training computes with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.quant import TensorQuant
from compressctl.numerics.affine import SMALLEST_SCALE
from compressctl.techniques.quantize._simulate import WeightRounding
from compressctl.training.hooks import Hook, StepInfo

_SMALLEST = float(SMALLEST_SCALE)

_LARGEST_PULL = 0.1
"""Gradient of a scale over the scale. A weight's own, norm over norm, is 0.05 to 0.5 where training is healthy."""


class InputQuantizer(nn.Module):
    """An activation's 8-bit codes, one scale and zero point for the tensor. The zero point stays, so that zero is a code.

    scale: a parameter where it is learned (LSQ), a buffer else. bound: what a Clip cuts off above, whose work the highest code
    does in the exported file: the scale reaches no further.
    """

    scale: Tensor

    def __init__(self, quant: TensorQuant, *, is_learned: bool, bound: float = np.inf) -> None:
        super().__init__()
        limits = np.iinfo(quant.dtype)
        self.zero_point = int(quant.zero_point)
        self.dtype = quant.dtype
        self.low, self.high = limits.min - self.zero_point, limits.max - self.zero_point
        self.largest = bound / max(self.high, 1)
        scale = torch.tensor(float(quant.scale))
        if is_learned:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = _Rounded.apply(x, self.scale, self.step(), self.low, self.high)  # type: ignore[no-untyped-call]
        return rounded

    def step(self) -> float:
        return min(max(self.scale.item(), _SMALLEST), self.largest)

    def quant(self) -> TensorQuant:
        """What the plan says about the tensor now."""
        return TensorQuant(self.dtype, np.asarray(self.step(), np.float32), np.asarray(self.zero_point, self.dtype))


class _Rounded(torch.autograd.Function):
    """step * clamp(round(x / step), low, high), where step is the scale as it is used.

    Gradients: to x inside the range, as if nothing had been rounded; to the scale by equation 3 of Esser et al. 2020 (LSQ),
    times its 1 / sqrt(n * highest code), n the values of one sample. Few passes over memory: this runs on every activation.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, scale: Tensor, step: float, low: int, high: int) -> Tensor:
        codes = (x * (1 / step)).clamp_(low, high)
        rounded = codes.round()
        context.save_for_backward(x, codes.sub_(rounded))
        context.limits = (low, high, step)
        return rounded.mul_(step)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, below = context.saved_tensors
        low, high, step = context.limits
        (gradient,) = gradients
        inside = torch.ops.aten.hardtanh_backward(gradient, x, low * step, high * step)
        if not context.needs_input_grad[1]:
            return inside, None, None, None, None
        over = torch.ops.aten.threshold_backward(gradient, x, high * step).sum(dtype=torch.float32)
        to_scale = high * over - (inside * below).sum(dtype=torch.float32)
        if low < 0:
            above = torch.ops.aten.threshold_backward(gradient, x, low * step).sum(dtype=torch.float32)
            to_scale = to_scale + low * (gradient.sum(dtype=torch.float32) - above)
        return inside, to_scale / (x[0].numel() * max(high, -low)) ** 0.5, None, None, None


class WeightQuantizer(WeightRounding):
    """Codes from -limit to limit around zero with a scale for each output channel, the first axis of the weight.

    learned: the scales are parameters that start at `start`, (channels,) (LSQ); without, each channel's largest weight has
    the largest code at every step.
    """

    def __init__(self, limit: int, start: Tensor | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.scale = nn.Parameter(start.clone()) if start is not None else None

    def forward(self, weight: Tensor) -> Tensor:
        scale = self._scale(weight)
        return _straight(weight / scale, self.limit) * scale

    def codes(self, weight: Tensor) -> Tensor:
        """Whole numbers, shape of the weight."""
        with torch.no_grad():
            return (weight / self._scale(weight)).clamp(-self.limit, self.limit).round()

    def values(self, weight: Tensor) -> Tensor:
        """Exactly scale times code, without gradients."""
        with torch.no_grad():
            return self.codes(weight) * self._scale(weight)

    def _scale(self, weight: Tensor) -> Tensor:
        """(channels, 1, ...), positive."""
        shape = (-1, *[1] * (weight.ndim - 1))
        if self.scale is None:
            return (_rows(weight).detach().abs().amax(1) / self.limit).clamp(min=_SMALLEST).view(shape)
        damped = _damped(self.scale, (weight[0].numel() * self.limit) ** -0.5)
        return damped.clamp(min=_SMALLEST).view(shape)


class SteadyScales(Hook):
    """Bounds the gradients of learned scales by a share of the scales themselves, so that none grows or vanishes in a few steps.

    The papers' learning rates hold for inputs of their size: the step of a scale relative to itself goes with the square of
    the numbers that it divides. In several processes it acts on the sum of all gradients.
    """

    def before_step(self, network: nn.Module, moment: StepInfo) -> None:
        for module in network.modules():
            scale = module.scale if isinstance(module, InputQuantizer | WeightQuantizer) else None
            if scale is not None and scale.grad is not None:
                bound = _LARGEST_PULL * scale.detach().abs()
                scale.grad.copy_(scale.grad.clamp(-bound, bound))


def fitted_scale(weight: Tensor, limit: int) -> Tensor:
    """(channels,): the scale with the least squared error of each output channel, among shares of the whole range."""
    rows = _rows(weight.detach())
    largest = rows.abs().amax(1).clamp(min=_SMALLEST)
    best, least = largest / limit, torch.full_like(largest, torch.inf)
    for share in torch.linspace(1.0, 0.3, 36):
        scale = share * largest / limit
        error = ((rows / scale[:, None]).round().clamp(-limit, limit) * scale[:, None] - rows).square().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def _rows(weight: Tensor) -> Tensor:
    return weight.reshape(len(weight), -1)


def _straight(codes: Tensor, limit: int) -> Tensor:
    """Rounded and clamped, with the gradient of the clamp alone (straight-through)."""
    clamped = codes.clamp(-limit, limit)
    return clamped + (clamped.round() - clamped).detach()


def _damped(value: Tensor, factor: float) -> Tensor:
    """The value as it is, its gradient times factor. Source: Esser et al. 2020, section 2.2."""
    return (value - value * factor).detach() + value * factor
