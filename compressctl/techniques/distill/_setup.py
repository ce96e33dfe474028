"""What both ways to distill do before and after training: bring teacher, student and samples together, and keep score."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from compressctl.core.data import Split
from compressctl.core.errors import UsageError
from compressctl.core.model import Model
from compressctl.core.tasks import TASKS
from compressctl.core.technique import RunContext
from compressctl.techniques.distill._generated import generate
from compressctl.techniques.distill._noise import noises
from compressctl.techniques.distill._preflight_warnings import warn_of_echo, warn_of_poor_teacher
from compressctl.techniques.distill._scoring import Answers, Ask, agreement, answers, asking
from compressctl.techniques.distill._student import Learner, make_student
from compressctl.techniques.distill._synthetic import Draw, MadeDataset, MadeSplit, drawing, stored
from compressctl.techniques.distill.params import DistillParams
from compressctl.training.data import tensor_batches
from compressctl.training.supervision.load_teacher import load_teacher
from compressctl.training.supervision.objective import LabelLoss, first_loss, has_labels
from compressctl.training.supervision.params import ORIGINAL, Network
from compressctl.training.supervision.teacher import Teacher, TorchTeacher
from compressctl.training.supervision.teacher_loss import class_axis

_PROBE_SAMPLES = 1024
_GENERATED = "generated.safetensors"


@dataclass(frozen=True)
class Lesson:
    """teacher, student: who they are. run: with the samples to train on. draw: draws inputs afresh, where they are noise.

    before: the facts that hold before training. held_out: what both are scored on, None when there is nothing.
    """

    teacher: Teacher
    student: Learner
    run: RunContext
    draw: Draw | None
    held_out: Split | None
    taught: Answers | None
    before: Mapping[str, Any] = field(default_factory=dict)


def prepare(model: Model, params: DistillParams, run: RunContext) -> Lesson:
    """Raises UsageError or StageError for what cannot teach or learn; warns of what usually goes wrong."""
    teacher = load_teacher(params.teacher, model.signature, run)
    student = make_student(model, params.student, teacher, run)
    warn_of_echo(params.student is None and params.teacher == ORIGINAL and not model.history, run.events)
    facts: dict[str, Any] = {"teacher": _called(params.teacher), "student": dict(student.facts)}
    draw = None
    if params.data_free is not None:
        run, draw, made = _without_data(student.model, teacher, params, run)
        facts["data_free"] = made
    held_out = _held_out(run, params)
    taught = answers(teacher, held_out, student.model.signature) if held_out is not None else None
    lesson = Lesson(teacher, student, run, draw, held_out, taught, facts)
    given = _given(lesson, asking(student.model.body))
    facts["before"] = _scores(lesson, given)
    if taught is not None and given is not None and _same_outputs(teacher, student):
        warn_of_poor_teacher(taught, given, run)
        score = taught.score(run.metric, run.decode)
        facts |= {} if score is None else {"teacher_score": score}
    return lesson


def conclude(lesson: Lesson, network: torch.nn.Module) -> dict[str, Any]:
    """Facts for the report: scores on the validation split before and after, and how often both decide alike."""
    after = _scores(lesson, _given(lesson, asking(network)))
    metric = lesson.run.metric
    return {
        **lesson.before,
        "after": after,
        "metric": None if metric is None else metric.name,
        "scored_on": "validation" if lesson.run.data is not None and not _is_made(lesson) else "made inputs",
    }


def label_loss(params: DistillParams, lesson: Lesson, usual: float) -> tuple[LabelLoss | None, float]:
    """The task's own loss and its weight. usual: the weight where the recipe names none and there are labels."""
    if params.data_free is not None or params.label_weight == 0:
        return None, 0.0
    if params.label_weight is None and not has_labels(lesson.run):
        return None, 0.0
    try:
        loss = first_loss(lesson.run.learning, params.label_smoothing)
    except UsageError:
        if params.label_weight is None:
            return None, 0.0
        raise
    return loss, usual if params.label_weight is None else params.label_weight


def samples_of(lesson: Lesson, count: int) -> tuple[Tensor, ...]:
    """A few samples of what the student is trained on, to learn shapes from."""
    assert lesson.run.data is not None
    return next(tensor_batches(lesson.run.data.split("train"), lesson.student.model.signature, count)).inputs


def _called(teacher: str | Network) -> str:
    return teacher if isinstance(teacher, str) else teacher.factory


def _without_data(
    student: Model, teacher: Teacher, params: DistillParams, run: RunContext
) -> tuple[RunContext, Draw | None, dict[str, Any]]:
    """The run with made samples to train on, how to draw more of them, and facts about them."""
    network = teacher.network if isinstance(teacher, TorchTeacher) else None
    noise = noises(student.signature, network, params.data_free_mean, params.data_free_std)
    draw = drawing(noise, student.signature, run.seed)
    facts = {"inputs": params.data_free, "samples": params.data_free_samples, "statistics": noise[0].source}
    fresh: Draw | None = draw
    if params.data_free == "generated":
        assert network is not None, "the plan refuses an ONNX teacher here"
        draw, fresh = _generated(student, network, draw, params, run), None
    data = MadeDataset(MadeSplit(params.data_free_samples, draw), run.data)
    return replace(run, data=data), fresh, facts


def _generated(student: Model, network: torch.nn.Module, draw: Draw, params: DistillParams, run: RunContext) -> Draw:
    """Inputs that were optimized, kept in the checkpoint: they take long, and a resumed run shall have the same."""
    name = student.signature.inputs[0].name
    kept = None if run.checkpoint is None else run.checkpoint / _GENERATED
    if kept is not None and kept.is_file():
        with suppress(OSError, SafetensorError, KeyError):  # damaged: made again
            return stored(load_file(kept)[name], name)
    classes = None
    if run.task == "classification":
        width = student.signature.outputs[0].shape[-1]
        classes = int(width) if isinstance(width, int) and width > 1 else None
    start = draw(np.arange(params.data_free_samples))[name]
    inputs = generate(network, start, params.data_free_steps, run.seed, run.events, classes)
    run.keep(_GENERATED, lambda path: save_file({name: inputs}, path))
    return stored(inputs, name)


def _held_out(run: RunContext, params: DistillParams) -> Split | None:
    """The validation split; made samples that nobody trains on where there is no data."""
    if run.data is None:
        return None
    validation = run.data.split("validation")
    if len(validation) > 0:
        return validation
    if isinstance(run.data, MadeDataset) and params.data_free == "random":
        shifted = run.data.train.draw
        return MadeSplit(_PROBE_SAMPLES, lambda numbers: shifted(-1 - numbers))
    return None


def _is_made(lesson: Lesson) -> bool:
    return isinstance(lesson.held_out, MadeSplit)


def _same_outputs(teacher: Teacher, student: Learner) -> bool:
    first, second = (each.model.signature.outputs[0].shape for each in (teacher, student))
    return first[1:] == second[1:] and len(first) == len(second)


def _given(lesson: Lesson, ask: Ask) -> Answers | None:
    return None if lesson.held_out is None else answers(ask, lesson.held_out, lesson.student.model.signature)


def _scores(lesson: Lesson, given: Answers | None) -> dict[str, float]:
    """The student's score, and its agreement with the teacher where both decide for classes."""
    if given is None:
        return {}
    found = {}
    score = given.score(lesson.run.metric, lesson.run.decode)
    if score is not None:
        found["score"] = score
    decides = TASKS[lesson.run.task].class_axis is not None
    if decides and lesson.taught is not None and _same_outputs(lesson.teacher, lesson.student):
        found["agreement"] = agreement(given, lesson.taught, class_axis(lesson.run.task))
    return found
