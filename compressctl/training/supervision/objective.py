"""What a technique trains its network on: labels, a teacher's outputs, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.core.model import TorchModel
from compressctl.core.tasks import Learning
from compressctl.core.technique import RunContext
from compressctl.training.data import TensorBatch
from compressctl.training.hooks import Hook
from compressctl.training.objective import Objective, first_output, task_loss, task_objective
from compressctl.training.supervision.load_teacher import check_outputs, load_teacher
from compressctl.training.supervision.loss_history import LossHistory
from compressctl.training.supervision.params import SupervisedParams
from compressctl.training.supervision.teacher import REMEMBERED_BYTES, CachedTeacher
from compressctl.training.supervision.teacher_loss import Compare, comparison

LABEL_WEIGHT = 0.1
"""Beside a teacher, where the recipe names none and there are labels."""

LabelLoss = Callable[[Tensor, TensorBatch], Tensor]
"""The first output and the batch with its labels to a scalar."""


def objective_of(model: TorchModel, params: SupervisedParams, run: RunContext) -> tuple[Objective, list[Hook]]:
    """The loss, and the hook that keeps its parts. model: what learns.

    Raises UsageError where there is no such teacher, or the task has no loss for labels.
    """
    if params.teacher is None:
        return task_objective(run.learning, params.label_smoothing), []
    teacher = load_teacher(params.teacher, model.signature, run)
    check_outputs(teacher.model, model)
    weight = _label_weight(params, run)
    ledger = LossHistory()
    objective = OutputsObjective(
        CachedTeacher(teacher, 0 if params.inputs_vary else REMEMBERED_BYTES),
        comparison(params.teacher_loss, run.learning, model.signature),
        params.teacher_weight,
        first_loss(run.learning, params.label_smoothing) if weight else None,
        weight,
        ledger,
    )
    return objective, [ledger]


def _label_weight(params: SupervisedParams, run: RunContext) -> float:
    if params.label_weight is not None:
        return params.label_weight
    return LABEL_WEIGHT if has_labels(run) and run.learning.has_loss else 0.0


def has_labels(run: RunContext) -> bool:
    """Whether the samples to train on have labels."""
    assert run.data is not None, "the plan gives training data to a technique that needs it"
    first = next(iter(run.data.split("train").batches(1)), None)
    return first is not None and first.labels is not None


@dataclass(frozen=True)
class OutputsObjective:
    """weight * compare(student, teacher) + label_weight * labels(student, labels)."""

    teacher: CachedTeacher
    compare: Compare
    weight: float
    labels: LabelLoss | None
    label_weight: float
    ledger: LossHistory

    def __call__(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        outputs = first_output(network, batch)
        taught = self.teacher(batch.inputs, batch.indices)
        parts = {"teacher": self.weight * self.compare(outputs, taught, batch)}
        if self.labels is not None:
            parts["labels"] = self.label_weight * self.labels(outputs, batch)
        return self.ledger.total(parts, len(outputs) if network.training else 0)


def first_loss(learning: Learning, label_smoothing: float) -> LabelLoss:
    """Of the first output with its labels, its head's where there are heads. Raises UsageError where there is none."""
    head = next((name for name, part in learning.heads.items() if part.place == 0), None)
    if learning.heads and head is None:
        raise UsageError("no head learns the first output, which the teacher teaches", hint="set label_weight: 0")
    loss = task_loss(learning if head is None else learning.heads[head], label_smoothing)

    def of(outputs: Tensor, batch: TensorBatch) -> Tensor:
        labels = batch.labels if head is None or batch.heads is None else batch.heads[head]
        if labels is None:
            raise UsageError("label_weight asks for labels, and the data has none", hint="set label_weight: 0")
        return loss(outputs, labels, batch.tuples)

    return of
