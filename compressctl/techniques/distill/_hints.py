"""Hints: the student's features, through an adapter, shall be the teacher's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two feature tensors of one shape; a scalar in float32.

    Source: Romero et al. 2015, FitNets, equation 3 (as a mean, so that it does not grow with the layer's size).
    """
    return functional.mse_loss(student.float(), teacher.float())


def same_places(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both feature maps (n, channels, height, width) averaged down to the smaller of the two; others as they are."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    first, second = (functional.adaptive_avg_pool2d(features.float(), size) for features in (student, teacher))
    return first, second
