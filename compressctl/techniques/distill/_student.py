"""Who learns: the model as it comes in, a network by factory, or the teacher with fewer channels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.core.model import Model, TorchModel
from compressctl.core.technique import RunContext
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.techniques.distill._adapters import reinitialise
from compressctl.techniques.distill._shrink import shrink
from compressctl.techniques.distill.params import Student
from compressctl.training.supervision.factory import make_network
from compressctl.training.supervision.load_teacher import in_torch
from compressctl.training.supervision.teacher import Teacher


@dataclass(frozen=True)
class Learner:
    """model: to be trained in place; nobody else has its network. facts: how it was made, ready for JSON."""

    model: TorchModel
    facts: Mapping[str, Any] = field(default_factory=dict)


def make_student(model: Model, wanted: Student | None, teacher: Teacher, run: RunContext) -> Learner:
    """model: what comes into the stage. Its history stays with the student.

    Raises UsageError when there is no such student, NothingToCompressError when nothing of the teacher can be shrunk.
    """
    if wanted is None:
        if not isinstance(model, TorchModel):
            raise UsageError("the model is an ONNX graph, which cannot be trained", hint="name a student by factory")
        return Learner(replace(model, body=copy.deepcopy(model.body)), {"from": "the stages before"})
    if wanted.factory is not None:
        made = make_network(wanted.factory, wanted.args, wanted.weights, model.signature, run, what="student")
        return Learner(replace(made, history=model.history), {"from": wanted.factory})
    assert wanted.width_multiplier is not None
    large = in_torch(teacher, "a student that is shrunk").model
    shrunk = shrink(large.body, example_inputs(large.signature), wanted.width_multiplier)
    if wanted.init == "random":
        reinitialise(shrunk.network, run.seed)
    facts = {
        "from": "the teacher, shrunk",
        "init": wanted.init,
        "widths": dict(shrunk.widths),
        "whole": dict(shrunk.whole),
    }
    return Learner(replace(large, body=shrunk.network.requires_grad_(True).eval(), history=model.history), facts)
