"""Small layers that are trained beside the student and thrown away after."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def adapter(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    """From features of the student's width to the teacher's: nothing where they agree, else a 1x1 convolution or a Linear.

    student, teacher: shapes (n, channels, height, width), or (..., width).
    """
    axis = 1 if len(student) == 4 else -1
    before, after = student[axis], teacher[1 if len(teacher) == 4 else -1]
    if before == after:
        return nn.Identity()
    return nn.Conv2d(before, after, 1) if len(student) == 4 else nn.Linear(before, after)


def vectors(features: Tensor) -> Tensor:
    """(n, width): the mean over places of feature maps (n, channels, height, width) and of tokens (n, tokens, width)."""
    if features.ndim == 4:
        return features.float().mean(dim=(2, 3))
    return features.float().flatten(1, -2).mean(dim=1) if features.ndim > 2 else features.float()


class Embeddings(nn.Module):
    """Both networks' vectors in one space: a Linear for each, trained by the same loss."""

    def __init__(self, student_width: int, teacher_width: int, width: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_width, width)
        self.teacher = nn.Linear(teacher_width, width)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return self.student(vectors(student)), self.teacher(vectors(teacher))


def fresh(modules: list[nn.Module], seed: int) -> nn.ModuleList:
    """The modules with weights that the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in modules:
            for part in module.modules():
                if isinstance(part, nn.Conv2d | nn.Linear):
                    part.reset_parameters()
    return nn.ModuleList(modules)
