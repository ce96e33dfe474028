"""What a technique trains its network on: labels, a teacher's outputs, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.core.model import TorchModel
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

LabelLoss = Callable[[Tensor, Tensor], Tensor]
"""Outputs and labels to a scalar."""


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
        comparison(params.teacher_loss, run.task, model.signature),
        params.teacher_weight,
        task_loss(run.learning, params.label_smoothing) if weight else None,
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
            parts["labels"] = self.label_weight * self.labels(outputs, known_labels(batch))
        return self.ledger.total(parts, len(outputs) if network.training else 0)


def known_labels(batch: TensorBatch) -> Tensor:
    """Raises UsageError where there are none."""
    if batch.labels is None:
        raise UsageError("label_weight asks for labels, and the data has none", hint="set label_weight: 0")
    return batch.labels
