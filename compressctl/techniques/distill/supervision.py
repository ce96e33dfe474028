"""What a technique trains its network on: labels, a teacher's outputs, or both."""

from __future__ import annotations

from compressctl.core.model import Model
from compressctl.core.technique import RunContext
from compressctl.techniques.distill.compare import comparison
from compressctl.techniques.distill.logits import LABEL_WEIGHT, OutputsObjective, inputs_vary
from compressctl.techniques.distill.loss_history import Ledger
from compressctl.techniques.distill.supervision_params import TaughtParams, as_logits
from compressctl.techniques.distill.teacher import check_outputs, load_teacher
from compressctl.training.hooks import Hook
from compressctl.training.objective import Objective, task_loss, task_objective
from compressctl.training.teacher import REMEMBERED_BYTES, CachedTeacher


def objective_of(model: Model, params: TaughtParams, run: RunContext) -> tuple[Objective, list[Hook]]:
    """The loss, and the hook that keeps its parts. model: what learns.

    Raises UsageError where there is no such teacher, or the task has no loss for labels.
    """
    if params.teacher is None:
        return task_objective(run.task, params.label_smoothing), []
    teacher = load_teacher(params.teacher, model.signature, run)
    check_outputs(teacher.model, model)
    weight = _label_weight(params, run)
    ledger = Ledger()
    objective = OutputsObjective(
        CachedTeacher(teacher, 0 if inputs_vary(as_logits(params)) else REMEMBERED_BYTES),
        comparison(as_logits(params), run.task, model.signature),
        params.teacher_weight,
        task_loss(run.task, params.label_smoothing) if weight else None,
        weight,
        ledger,
    )
    return objective, [ledger]


def _label_weight(params: TaughtParams, run: RunContext) -> float:
    assert run.data is not None, "the plan gives training data to a technique that needs it"
    if params.label_weight is not None:
        return params.label_weight
    first = next(iter(run.data.split("train").batches(1)), None)
    return 0.0 if first is None or first.labels is None or run.task == "custom" else LABEL_WEIGHT
