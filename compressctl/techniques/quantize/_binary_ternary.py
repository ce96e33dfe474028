"""Weights of two or three values per output channel, with gradients that reach what they are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compressctl.techniques.quantize._simulate import WeightRounding
from compressctl.training.hooks import Hook, StepInfo

_SMALLEST = 1e-8
_TERNARY_SHARE = 0.7
"""Of the mean magnitude: the best threshold for weights spread evenly or like a bell. Source: Li and Liu 2016, section 2.2."""

_STEEPNESS = (0.1, 10.0)
"""Of the estimator at the start and at the end. Source: Qin et al. 2020, section 3.3, equation 9."""


class BinaryWeight(WeightRounding):
    """s sign(w) with s the mean magnitude of w in its output channel, the first axis; w less its mean where it is balanced.

    steepness: of the estimator, None for straight-through. Source: Rastegari et al. 2016, equation 6; Qin et al. 2020,
    section 3.2 (without its power-of-two scales, which exact scales take the place of).
    """

    def __init__(self, *, is_balanced: bool, is_estimated: bool) -> None:
        super().__init__()
        self.is_balanced = is_balanced
        self.steepness: float | None = _STEEPNESS[0] if is_estimated else None

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.reshape(len(weight), -1)
        if self.is_balanced and rows.shape[1] > 1:
            rows = rows - rows.mean(1, keepdim=True)
        scale = rows.abs().mean(1, keepdim=True).clamp(min=_SMALLEST)
        deviation = rows.detach().square().mean(1, keepdim=True).sqrt().clamp(min=_SMALLEST)
        return (scale * _sign(rows / deviation, self.steepness)).view_as(weight)

    def values(self, weight: Tensor) -> Tensor:
        """Without gradients: two values per channel, exactly."""
        with torch.no_grad():
            return self(weight)  # type: ignore[no-any-return]


class TernaryWeight(WeightRounding):
    """s times -1, 0 or 1: 0 below 0.7 of the channel's mean magnitude, s the mean magnitude of the others.

    Gradients pass as if nothing had been rounded. Source: Li and Liu 2016, equations 4 to 6.
    """

    def forward(self, weight: Tensor) -> Tensor:
        values = self.values(weight)
        return weight + (values - weight).detach()

    def values(self, weight: Tensor) -> Tensor:
        """Without gradients: at most three values per channel, exactly."""
        with torch.no_grad():
            rows = weight.reshape(len(weight), -1)
            magnitude = rows.abs()
            is_kept = magnitude > _TERNARY_SHARE * magnitude.mean(1, keepdim=True)
            scale = (magnitude * is_kept).sum(1, keepdim=True) / is_kept.sum(1, keepdim=True).clamp(min=1)
            return (scale * rows.sign() * is_kept).view_as(weight)


class EdeSchedule(Hook):
    """The estimator's curve grows steeper from epoch to epoch: at first all weights learn, at last those near the sign's step."""

    def __init__(self, weights: list[BinaryWeight], epochs: int) -> None:
        self._weights, self._epochs = weights, epochs

    def before_epoch(self, network: nn.Module, moment: StepInfo) -> None:
        low, high = _STEEPNESS
        share = moment.epoch / max(1, self._epochs - 1)
        for weight in self._weights:
            weight.steepness = low * (high / low) ** share


def _sign(values: Tensor, steepness: float | None) -> Tensor:
    signed: Tensor = _Sign.apply(values, steepness)  # type: ignore[no-untyped-call]
    return signed


class _Sign(torch.autograd.Function):
    """-1 or 1, never 0. Gradient: that of k tanh(t x) with k = max(1 / t, 1) (Qin et al. 2020, equation 8), or 1."""

    @staticmethod
    def forward(context: Any, values: Tensor, steepness: float | None) -> Tensor:
        context.steepness = steepness
        context.save_for_backward(values)
        return torch.where(values < 0, -1.0, 1.0)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (values,) = context.saved_tensors
        steep = context.steepness
        if steep is None:
            return gradients[0], None
        slope = max(1 / steep, 1.0) * steep * (1 - torch.tanh(values * steep).square())
        return gradients[0] * slope, None
