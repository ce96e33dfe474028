"""Who teaches: the recipe's own model, a network with weights from a file, or an ONNX file in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import Form, Model, Signature
from compressctl.core.technique import RunContext
from compressctl.graph.execute import TappedGraph
from compressctl.graph.torch_outputs import named_outputs
from compressctl.sources import onnx_file
from compressctl.sources.checkpoint import load_weights
from compressctl.sources.params import OnnxParams
from compressctl.techniques.distill.made import make_network
from compressctl.techniques.distill.params import ORIGINAL, Network


class Teacher(Protocol):
    """Gives the first output for a batch of inputs, without gradients to its own weights."""

    @property
    def model(self) -> Model: ...

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor: ...


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
        return OnnxTeacher(onnx_file.load(OnnxParams(path=named), run.base, run.seed))
    if run.original is None:
        raise UsageError("this run has no original model to learn from", hint="name a file or a factory as teacher")
    original = run.original()
    if named == ORIGINAL:
        return OnnxTeacher(original) if original.form is Form.ONNX else TorchTeacher(original)
    if original.form is Form.ONNX:
        raise UsageError(
            f"teacher: {named} holds weights for the recipe's own model, which is an ONNX file",
            hint="give the teacher as {factory: ..., weights: ...}",
        )
    load_weights(original.body, run.base / named)
    return TorchTeacher(original)


class TorchTeacher:
    """A network in eval mode whose weights never change. It follows its inputs to their device."""

    def __init__(self, model: Model) -> None:
        network: nn.Module = model.body
        self.network = network.eval().requires_grad_(False)
        self.model = replace(model, body=self.network)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        self.network.to(inputs[0].device)
        if inputs[0].ndim == 4 and not inputs[0].is_contiguous():  # the loop stores images channels last
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            return next(iter(named_outputs(self.network(*inputs)).values()))


class OnnxTeacher:
    """A graph in ONNX Runtime, on the processor. Tensors pass through numpy."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._output = model.signature.outputs[0].name
        # No more threads than torch takes: the two work in turn.
        self._graph = TappedGraph(model.body, [self._output], threads=torch.get_num_threads())

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        given = {
            spec.name: value.detach().cpu().numpy().astype(spec.dtype)
            for spec, value in zip(self.model.signature.inputs, inputs, strict=True)
        }
        fixed = self.model.signature.inputs[0].shape[0]
        size = fixed if isinstance(fixed, int) else len(inputs[0])
        outputs = [self._run({name: value[start : start + size] for name, value in given.items()}, size)
                   for start in range(0, len(inputs[0]), size)]  # fmt: skip
        return torch.as_tensor(np.concatenate(outputs)).to(inputs[0].device)

    def _run(self, inputs: dict[str, np.ndarray], size: int) -> np.ndarray:
        """One call; a last batch that a fixed size does not divide is filled up with its last sample."""
        count = len(next(iter(inputs.values())))
        missing = size - count
        filled = {
            name: np.concatenate([value, np.repeat(value[-1:], missing, axis=0)]) if missing else value
            for name, value in inputs.items()
        }
        # A copy: the runtime uses the memory again for the next batch.
        return self._graph.run(filled)[self._output][:count].copy()


def _check_inputs(teacher: Signature, student: Signature) -> None:
    """Inputs go by position, so that their names may differ; shapes and types may not."""
    if len(teacher.inputs) != len(student.inputs):
        raise UsageError(
            f"the teacher takes {len(teacher.inputs)} inputs and the student {len(student.inputs)}",
            hint="both are given the same samples",
        )
    for ours, theirs in zip(student.inputs, teacher.inputs, strict=True):
        pairs = zip(ours.shape[1:], theirs.shape[1:], strict=False)
        differ = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
        if differ or len(ours.shape) != len(theirs.shape):
            raise UsageError(
                f"the teacher takes {theirs.name} {list(theirs.shape)} and the student {ours.name} {list(ours.shape)}",
                hint="both are given the same samples",
            )


def check_outputs(teacher: Model, student: Model) -> None:
    """Raise UsageError when the first outputs are not of one shape, above all when the classes are not the same number."""
    first, second = teacher.signature.outputs[0].shape[1:], student.signature.outputs[0].shape[1:]
    same = len(first) == len(second) and all(
        not (isinstance(a, int) and isinstance(b, int)) or a == b for a, b in zip(first, second, strict=True)
    )
    if not same:
        raise UsageError(
            f"the teacher gives {_words(first)} and the student {_words(second)}, so that their outputs cannot be compared",
            hint="distil from a teacher of the same task, or use distill.features with logits_weight: 0",
        )


def _words(shape: tuple[int | str, ...]) -> str:
    return f"{shape[0]} classes" if len(shape) == 1 else f"outputs of shape {list(shape)}"


def torch_network(teacher: Teacher, needed_for: str) -> nn.Module:
    """The teacher's module. Raises StageError for an ONNX teacher."""
    if not isinstance(teacher, TorchTeacher):
        raise StageError(f"{needed_for} needs a torch teacher, and this one is an ONNX file")
    return teacher.network


@dataclass
class Remembering:
    """A teacher that answers for a sample of the train split only once.

    indices name samples: inputs that augmentation changes must not be asked for by them.
    """

    teacher: Teacher
    limit_bytes: int

    def __post_init__(self) -> None:
        self._known: dict[int, Tensor] = {}
        self._bytes = 0

    def __call__(self, inputs: tuple[Tensor, ...], indices: Tensor | None) -> Tensor:
        if indices is None:
            return self.teacher(inputs)
        names: list[int] = indices.tolist()
        if all(name in self._known for name in names):
            return torch.stack([self._known[name] for name in names]).to(inputs[0].device)
        outputs = self.teacher(inputs)
        if self._bytes + outputs.nbytes <= self.limit_bytes:
            self._bytes += outputs.nbytes
            kept = outputs.detach().cpu().clone()
            self._known |= dict(zip(names, kept, strict=True))
        return outputs
