"""distill.logits: a student learns to give the teacher's outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from compressctl.core.model import Model
from compressctl.core.technique import RunContext, StageResult
from compressctl.techniques.distill.compare import Compare, comparison, loss_name
from compressctl.techniques.distill.loss_history import Ledger
from compressctl.techniques.distill.params import DistillParams, LogitsParams
from compressctl.techniques.distill.preflight_warnings import warn_of_heat
from compressctl.techniques.distill.setup import LabelLoss, conclude, known_labels, label_loss, prepare
from compressctl.techniques.distill.synthetic import Afresh
from compressctl.techniques.distill.teacher import check_outputs
from compressctl.training.data import TensorBatch
from compressctl.training.loop import train
from compressctl.training.objective import Objective, first_output
from compressctl.training.teacher import REMEMBERED_BYTES, CachedTeacher

LABEL_WEIGHT = 0.1


def apply(model: Model, params: LogitsParams, run: RunContext) -> StageResult:
    """Train the student on the teacher's outputs and, where there are labels, on those too."""
    loss = loss_name(params, run.task)
    if loss in ("kl", "dkd"):
        warn_of_heat(model.history, params.temperature, run.events)
    lesson = prepare(model, params, run)
    check_outputs(lesson.teacher.model, lesson.student.model)
    student = lesson.student.model
    labels, label_weight = label_loss(params, lesson, LABEL_WEIGHT)
    ledger = Ledger()
    teacher = CachedTeacher(lesson.teacher, 0 if inputs_vary(params) else REMEMBERED_BYTES)
    objective: Objective = OutputsObjective(
        teacher,
        comparison(params, run.task, student.signature),
        params.weight,
        labels,
        label_weight,
        ledger,
    )
    if lesson.draw is not None:
        objective = Afresh(objective, lesson.draw, student.signature)
    trained = train(student, objective, params, lesson.run, [ledger], teacher=teacher)
    facts = {"loss_between_outputs": loss, "label_weight": label_weight, "loss_parts": ledger.by_part}
    result = replace(student, body=trained.network)
    return StageResult(result, {**conclude(lesson, trained.network), **facts, **trained.facts})


@dataclass(frozen=True)
class OutputsObjective:
    """weight * compare(student, teacher) + label_weight * labels(student, labels)."""

    teacher: CachedTeacher
    compare: Compare
    weight: float
    labels: LabelLoss | None
    label_weight: float
    ledger: Ledger

    def __call__(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        outputs = first_output(network, batch)
        taught = self.teacher(batch.inputs, batch.indices)
        parts = {"teacher": self.weight * self.compare(outputs, taught, batch)}
        if self.labels is not None:
            parts["labels"] = self.label_weight * self.labels(outputs, known_labels(batch))
        return self.ledger.total(parts, len(outputs) if network.training else 0)


def inputs_vary(params: DistillParams) -> bool:
    """Whether a sample is another one in each epoch."""
    return params.augment.is_on or params.mixup > 0 or params.data_free == "random"
