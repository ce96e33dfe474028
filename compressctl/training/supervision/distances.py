"""How far two networks' outputs are apart where they are no logits. Pure functions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over all elements; a scalar in float32. For regression. student, teacher: the same shape."""
    return functional.mse_loss(student.float(), teacher.float())


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine along the last axis, the mean over the others; a scalar in float32. For embeddings (..., width)."""
    return (1 - functional.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean()
