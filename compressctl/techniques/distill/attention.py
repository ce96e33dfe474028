"""Attention transfer: where the student's features are large, not what they are."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the two attention maps; a scalar in float32.

    student, teacher: (n, channels, height, width) with the same places, or (n, tokens, width); widths may differ.
    Source: Zagoruyko and Komodakis 2017, equation 2, with p = 2.
    """
    return (attention_map(student) - attention_map(teacher)).square().mean()


def attention_map(features: Tensor) -> Tensor:
    """(n, places): the mean square over channels at each place, scaled to norm 1 per sample."""
    channels = 1 if features.ndim == 4 else -1
    return functional.normalize(features.float().square().mean(dim=channels).flatten(1), dim=1)
