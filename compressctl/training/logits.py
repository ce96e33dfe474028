"""Outputs as the logits that losses take: published files often end in a Softmax or a Sigmoid."""

from __future__ import annotations

import torch
from torch import Tensor

_CLOSE = 1e-3
"""By which a row of probabilities may miss 1."""

_FEW = 2
"""A number alone may be a logit between 0 and 1."""

_LEAST = 1e-12
"""Probabilities below count as this one: their logarithms would tell rounding apart."""


def as_logits(outputs: Tensor, axis: int = -1) -> Tensor:
    """Logits whose softmax along an axis of classes the outputs are, where every row is of probabilities; the outputs themselves elsewhere.

    A single score a row is a class against none: a probability where all lie between 0 and 1. Empty outputs stay.
    """
    if not outputs.numel() or not outputs.is_floating_point():
        return outputs
    if outputs.shape[axis] == 1:
        return as_binary_logits(outputs)
    seen = outputs.detach()
    if float(seen.min()) < 0 or float((seen.float().sum(axis) - 1).abs().max()) > _CLOSE:
        return outputs
    return outputs.float().clamp_min(_LEAST).log()


def as_binary_logits(outputs: Tensor) -> Tensor:
    """Logits whose sigmoid the outputs are, where all of several numbers lie between 0 and 1; the outputs themselves elsewhere."""
    seen = outputs.detach()
    if seen.numel() < _FEW or not outputs.is_floating_point() or float(seen.min()) < 0 or float(seen.max()) > 1:
        return outputs
    return torch.logit(outputs.float(), eps=1e-6)
