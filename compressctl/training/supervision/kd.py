"""The divergence between a student's and a teacher's classes. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compressctl.training.logits import as_logits


def kl(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over all rows; a scalar in float32.

    student, teacher: logits (..., classes). mask: (...), rows that count; all without. The factor T^2 keeps the size of the
    gradient the same at every temperature. Source: Hinton et al. 2015, section 2.
    """
    log_student = functional.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.float() / temperature, dim=-1)
    rows = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1) * temperature**2
    return mean_of(rows, mask)


def standardized(logits: Tensor) -> Tensor:
    """Each row with mean 0 and standard deviation 1: neither a shift nor a positive scale of the logits changes it.

    logits: (..., classes). Source: Sun et al. 2024, algorithm 1.
    """
    values = logits.float()
    centred = values - values.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True).sqrt() + 1e-7)


def as_classes(outputs: Tensor, class_axis: int) -> Tensor:
    """Outputs, logits or probabilities, as logits (..., classes). A single one per sample says how likely the second of two classes is."""
    logits = as_logits(outputs.movedim(class_axis, -1))
    return torch.cat([torch.zeros_like(logits), logits], dim=-1) if logits.shape[-1] == 1 else logits


def mean_of(rows: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the rows that count; zero when none does."""
    if mask is None:
        return rows.mean()
    kept = mask.to(rows.dtype)
    return (rows * kept).sum() / kept.sum().clamp(min=1)
