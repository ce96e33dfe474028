"""The loss between a student's and a teacher's outputs, by name or by what is usual for a task."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compressctl.core.errors import UsageError
from compressctl.core.model import Signature
from compressctl.core.tasks import TASKS, Learning, Task
from compressctl.training.data import TensorBatch
from compressctl.training.supervision.distances import cosine_distance, squared_difference
from compressctl.training.supervision.dkd import dkd
from compressctl.training.supervision.kd import as_classes, kl, standardized
from compressctl.training.supervision.params import LossName, TeacherLoss

Compare = Callable[[Tensor, Tensor, TensorBatch], Tensor]
"""Student's outputs, teacher's outputs, the batch: a scalar."""


def loss_name(loss: TeacherLoss, learning: Learning) -> LossName:
    """What the recipe says, or what is usual for the task and its decoder. Raises UsageError for dkd on a task without classes, and for
    boxes where no decoder reads boxes and scores off the first output."""
    task = learning.task
    name = loss.name or ("boxes" if learning.distance is not None else _usual(task))
    if name == "boxes" and learning.distance is None:
        raise UsageError(
            "loss boxes compares boxes and scores that one output, the first, holds for each candidate",
            hint="name how they are read, `decode: {use: yolo}`; mse compares any outputs",
        )
    if name == "dkd" and task != "classification":
        raise UsageError(
            f"loss dkd sets one right class against the others, and the task is {task}", hint="use loss: kl"
        )
    return name


def class_axis(task: Task) -> int:
    """Where the classes are: along the last axis of a language model's (n, tokens, vocabulary), along axis 1 of a map."""
    axis = TASKS[task].class_axis
    return 1 if axis is None else axis


def _usual(task: Task) -> LossName:
    return "kl" if TASKS[task].class_axis is not None else "cosine" if task == "embedding" else "mse"


def comparison(loss: TeacherLoss, learning: Learning, signature: Signature) -> Compare:
    """The loss without its weight. Language models are compared token by token; those that an attention mask hides, not."""
    name, task, distance = loss_name(loss, learning), learning.task, learning.distance
    if name == "boxes" and distance is not None:
        return lambda student, teacher, batch: distance(student, teacher)
    if name == "mse":
        return lambda student, teacher, batch: squared_difference(student, teacher)
    if name == "cosine":
        return lambda student, teacher, batch: cosine_distance(student, teacher)
    axis = class_axis(task)

    def logits(outputs: Tensor) -> Tensor:
        classes = as_classes(outputs, axis)
        return standardized(classes) if loss.standardize else classes

    if name == "kl":
        return lambda student, teacher, batch: kl(
            logits(student), logits(teacher), loss.temperature, token_mask(student, batch, signature)
        )

    def decoupled(student: Tensor, teacher: Tensor, batch: TensorBatch) -> Tensor:
        rows = (logits(student).flatten(0, -2), logits(teacher).flatten(0, -2))
        target = right_class(batch.labels if isinstance(batch.labels, Tensor) else None, rows[1])
        return dkd(*rows, target, loss.dkd_alpha, loss.dkd_beta, loss.temperature)

    return decoupled


def right_class(labels: Tensor | None, teacher: Tensor) -> Tensor:
    """(n,) int64: the labels, the heaviest class of mixed ones, or the teacher's choice where there are none."""
    if labels is None:
        return teacher.argmax(dim=-1)
    return labels.argmax(dim=-1) if labels.is_floating_point() and labels.ndim > 1 else labels.flatten().long()


def token_mask(outputs: Tensor, batch: TensorBatch, signature: Signature) -> Tensor | None:
    """The input called attention_mask, where it has one value per row of logits."""
    for spec, values in zip(signature.inputs, batch.inputs, strict=True):
        if spec.name == "attention_mask" and values.shape == outputs.shape[:-1]:
            return values
    return None
