"""Relational distillation: distances and angles between samples, whatever the space that they are in."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-12


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the samples' distances, each network's divided by their mean; a scalar in float32.

    student, teacher: (n, width), n at least 2; widths may differ. Scaling, shifting or turning one space changes nothing.
    Source: Park et al. 2019, equations 6 to 8.
    """
    return functional.smooth_l1_loss(_distances(student.float()), _distances(teacher.float()))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of all angles in triples of samples; a scalar in float32.

    student, teacher: (n, width), n at least 3. Source: Park et al. 2019, equations 9 and 10.
    """
    return functional.smooth_l1_loss(_cosines(student.float()), _cosines(teacher.float()))


def _distances(points: Tensor) -> Tensor:
    """(n, n), the mean of those between different points is 1."""
    squares = (points[:, None] - points[None]).square().sum(dim=-1)
    # The root has no slope at zero, where a point meets itself.
    distances = squares.clamp(min=_TINY).sqrt() * (squares > _TINY)
    between = distances[squares > _TINY]
    return distances / between.mean() if between.numel() else distances


def _cosines(points: Tensor) -> Tensor:
    """(n, n, n): at [j, i, k] the cosine of the angle at point j between the ways to i and to k."""
    ways = functional.normalize(points[None] - points[:, None], dim=-1)
    return torch.bmm(ways, ways.transpose(1, 2))
