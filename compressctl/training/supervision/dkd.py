"""Decoupled knowledge distillation: the right class and the ranking of the others, each with a weight of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LARGE = 1e4
"""Taken from the target's logit: its share among the other classes becomes exactly zero in float32."""


def dkd(student: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """alpha * TCKD + beta * NCKD, times T^2, the mean over rows; a scalar in float32.

    student, teacher: logits (n, classes). target: (n,) int64, the class that counts as right. TCKD compares the shares of
    the target and of all others together; NCKD compares the others among themselves. With beta set, row by row, to the
    share that the teacher leaves the others, and alpha 1, this is the usual divergence.
    Source: Zhao et al. 2022, Decoupled Knowledge Distillation, equations 6 and 7.
    """
    first, second = student.float() / temperature, teacher.float() / temperature
    is_target = functional.one_hot(target, student.shape[-1]).bool()
    pairs = _target_and_rest(second, is_target), _target_and_rest(first, is_target)
    others = (
        functional.log_softmax(second - _LARGE * is_target, dim=-1),
        functional.log_softmax(first - _LARGE * is_target, dim=-1),
    )
    target_part, other_part = _divergence(*pairs), _divergence(*others)
    return (alpha * target_part + beta * other_part).mean() * temperature**2


def _target_and_rest(logits: Tensor, is_target: Tensor) -> Tensor:
    """(n, 2): logarithms of the target's share and of the rest's. In logarithms, so that a sure network loses nothing."""
    log_shares = functional.log_softmax(logits, dim=-1)
    target = log_shares.masked_fill(~is_target, -torch.inf).logsumexp(dim=-1)
    rest = log_shares.masked_fill(is_target, -torch.inf).logsumexp(dim=-1)
    return torch.stack([target, rest], dim=-1)


def _divergence(log_teacher: Tensor, log_student: Tensor) -> Tensor:
    """(n,) KL(teacher || student) of two distributions in logarithms."""
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)
