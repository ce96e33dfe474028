"""What the features of a batch are compared by: where they are large, how samples lie to each other, which belong together."""

from __future__ import annotations

import torch
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


def contrast(student: Tensor, teacher: Tensor, temperature: float, labels: Tensor | None = None) -> Tensor:
    """Cross-entropy of finding each sample's own partner, from the student's side and from the teacher's; a scalar.

    student, teacher: (n, width) embeddings of the same samples in the same order; they are scaled to norm 1. temperature:
    divides the cosines. labels: (n,) int64; samples of one class are then no opposites of each other.
    Source: Tian et al. 2020, Contrastive Representation Distillation. Its bound on the mutual information is taken in the
    form with a softmax over the batch (van den Oord et al. 2018, equation 4) instead of one over a bank of all samples.
    """
    first, second = functional.normalize(student.float(), dim=1), functional.normalize(teacher.float(), dim=1)
    similar = first @ second.T / temperature
    if labels is not None:
        own = torch.eye(len(labels), dtype=torch.bool, device=similar.device)
        similar = similar.masked_fill((labels[:, None] == labels[None]) & ~own, -torch.inf)
    partner = torch.arange(len(similar), device=similar.device)
    return (functional.cross_entropy(similar, partner) + functional.cross_entropy(similar.T, partner)) / 2
