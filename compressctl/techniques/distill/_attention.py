"""Attention transfer: where the student's features are large, not what they are."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the two attention maps, the mean over samples, 0 to 2 at any resolution; a scalar in float32.

    student, teacher: (n, channels, height, width) with the same places, or (n, tokens, width); widths may differ.
    Source: Zagoruyko and Komodakis 2017, equation 2, with p = 2.
    """
    return (attention_map(student) - attention_map(teacher)).square().sum(dim=1).mean()


def attention_map(features: Tensor) -> Tensor:
    """(n, places): the mean square over channels at each place, scaled to norm 1 per sample."""
    channels = 1 if features.ndim == 4 else -1
    return functional.normalize(features.float().square().mean(dim=channels).flatten(1), dim=1)
