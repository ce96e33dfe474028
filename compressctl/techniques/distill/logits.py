"""distill.logits: a student learns to give the teacher's outputs."""

from __future__ import annotations

from dataclasses import replace

from compressctl.core.model import Model
from compressctl.core.technique import RunContext, StageResult
from compressctl.techniques.distill._preflight_warnings import warn_of_heat
from compressctl.techniques.distill._setup import conclude, label_loss, prepare
from compressctl.techniques.distill._synthetic import Afresh
from compressctl.techniques.distill.params import LogitsParams
from compressctl.training.lora.train import train_adaptable
from compressctl.training.objective import Objective
from compressctl.training.supervision.load_teacher import check_outputs
from compressctl.training.supervision.loss_history import LossHistory
from compressctl.training.supervision.objective import LABEL_WEIGHT, OutputsObjective
from compressctl.training.supervision.teacher import REMEMBERED_BYTES, CachedTeacher
from compressctl.training.supervision.teacher_loss import comparison, loss_name


def apply(model: Model, params: LogitsParams, run: RunContext) -> StageResult:
    """Train the student on the teacher's outputs and, where there are labels, on those too."""
    loss = loss_name(params.teacher_loss, run.learning)
    if loss in ("kl", "dkd"):
        warn_of_heat(model.history, params.temperature, run.events)
    lesson = prepare(model, params, run)
    check_outputs(lesson.teacher.model, lesson.student.model)
    student = lesson.student.model
    labels, label_weight = label_loss(params, lesson, LABEL_WEIGHT)
    ledger = LossHistory()
    varies = params.inputs_vary or params.data_free == "random"
    teacher = CachedTeacher(lesson.teacher, 0 if varies else REMEMBERED_BYTES)
    objective: Objective = OutputsObjective(
        teacher,
        comparison(params.teacher_loss, run.learning, student.signature),
        params.teacher_weight,
        labels,
        label_weight,
        ledger,
    )
    if lesson.draw is not None:
        objective = Afresh(objective, lesson.draw, student.signature)
    trained = train_adaptable(student, objective, params, lesson.run, [ledger], teacher=teacher)
    facts = {"loss_between_outputs": loss, "label_weight": label_weight, "loss_parts": ledger.by_part}
    result = replace(student, body=trained.network)
    return StageResult(result, {**conclude(lesson, trained.network), **facts, **trained.facts})
