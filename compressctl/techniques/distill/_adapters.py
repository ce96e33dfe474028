"""Small layers that are trained beside the student and thrown away after."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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


def reinitialise(network: nn.Module, seed: int) -> None:
    """Fresh weights in place, as each module's own `reset_parameters` draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def same_places(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both feature maps (n, channels, height, width) averaged down to the smaller of the two; others as they are."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    first, second = (functional.adaptive_avg_pool2d(features.float(), size) for features in (student, teacher))
    return first, second
