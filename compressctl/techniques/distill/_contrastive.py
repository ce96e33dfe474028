"""Contrastive distillation: the student's features shall tell which of the batch's samples the teacher saw."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
