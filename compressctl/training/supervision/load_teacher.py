"""Who teaches: the recipe's own model, a network with weights from a file, or an ONNX file in ONNX Runtime."""

from __future__ import annotations

from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import Model, OnnxModel, Signature, fits
from compressctl.core.technique import RunContext
from compressctl.sources import onnx_file
from compressctl.sources.checkpoint import load_weights
from compressctl.sources.params import OnnxParams
from compressctl.training.supervision.factory import make_network
from compressctl.training.supervision.params import ORIGINAL, Network
from compressctl.training.supervision.teacher import OnnxTeacher, Teacher, TorchTeacher, teacher_of


def load_teacher(named: str | Network, student: Signature, run: RunContext) -> Teacher:
    """named: as in the recipe. student: what the student takes; a teacher from a factory is given the same.

    Raises UsageError when there is no such teacher, or when it does not take what the student takes.
    """
    teacher = _open(named, student, run)
    _check_inputs(teacher.model.signature, student)
    return teacher


def _open(named: str | Network, student: Signature, run: RunContext) -> Teacher:
    if isinstance(named, Network):
        body = make_network(named.factory, named.args, named.weights, student, run, what="teacher")
        return TorchTeacher(body)
    if named.endswith(".onnx"):
        return OnnxTeacher(onnx_file.load_graph(OnnxParams(path=named), run.base))
    if run.original is None:
        raise UsageError("this run has no original model to learn from", hint="name a file or a factory as teacher")
    original = run.original()
    if named == ORIGINAL:
        return teacher_of(original)
    if isinstance(original, OnnxModel):
        raise UsageError(
            f"teacher: {named} holds weights for the recipe's own model, which is an ONNX file",
            hint="give the teacher as {factory: ..., weights: ...}",
        )
    load_weights(original.body, run.base / named)
    return TorchTeacher(original)


def _check_inputs(teacher: Signature, student: Signature) -> None:
    """Inputs go by position, so that their names may differ; shapes and types may not."""
    if len(teacher.inputs) != len(student.inputs):
        raise UsageError(
            f"the teacher takes {len(teacher.inputs)} inputs and the student {len(student.inputs)}",
            hint="both are given the same samples",
        )
    for ours, theirs in zip(student.inputs, teacher.inputs, strict=True):
        if not fits(ours.shape[1:], theirs.shape[1:]):
            raise UsageError(
                f"the teacher takes {theirs.name} {list(theirs.shape)} and the student {ours.name} {list(ours.shape)}",
                hint="both are given the same samples",
            )


def check_outputs(teacher: Model, student: Model) -> None:
    """Raise UsageError when the first outputs are not of one shape, above all when the classes are not the same number."""
    first, second = teacher.signature.outputs[0].shape[1:], student.signature.outputs[0].shape[1:]
    if not fits(first, second):
        raise UsageError(
            f"the teacher gives {_words(first)} and the student {_words(second)}, so that their outputs cannot be compared",
            hint="distil from a teacher of the same task, or use distill.features with logits_weight: 0",
        )


def _words(shape: tuple[int | str, ...]) -> str:
    return f"{shape[0]} classes" if len(shape) == 1 else f"outputs of shape {list(shape)}"


def in_torch(teacher: Teacher, needed_for: str) -> TorchTeacher:
    """Raises StageError for an ONNX teacher."""
    if not isinstance(teacher, TorchTeacher):
        raise StageError(f"{needed_for} needs a torch teacher, and this one is an ONNX file")
    return teacher
