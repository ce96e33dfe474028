"""Networks whose outputs another one learns: in torch, or an ONNX graph in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from compressctl.core.model import Model, OnnxModel, TorchModel
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.torch_outputs import named_outputs

REMEMBERED_BYTES = 1024**3
"""What a teacher's remembered outputs may take."""


class Teacher(Protocol):
    """Computes outputs for a batch of inputs, without gradients to its own weights."""

    @property
    def model(self) -> Model: ...

    def outputs(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """All outputs, by the names of the teacher's own signature and in its order."""
        ...

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The first output."""
        ...


def teacher_of(model: Model) -> Teacher:
    return OnnxTeacher(model) if isinstance(model, OnnxModel) else TorchTeacher(model)


class TorchTeacher:
    """A network in eval mode whose weights never change. It follows its inputs to their device."""

    def __init__(self, model: TorchModel) -> None:
        self.network = model.body.eval().requires_grad_(False)
        self.model = replace(model, body=self.network)

    def outputs(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        self.network.to(inputs[0].device)
        if inputs[0].ndim == 4 and not inputs[0].is_contiguous():  # the loop stores images channels last
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            return named_outputs(self.network(*inputs))

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return next(iter(self.outputs(inputs).values()))


class OnnxTeacher:
    """A graph in ONNX Runtime, on the processor. Tensors pass through numpy."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self._names = [spec.name for spec in model.signature.outputs]
        # No more threads than torch takes: the two work in turn.
        self._graph = ActivationRecorder(model.body, self._names, threads=torch.get_num_threads())

    def outputs(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        given = {
            spec.name: value.detach().cpu().numpy().astype(spec.dtype)
            for spec, value in zip(self.model.signature.inputs, inputs, strict=True)
        }
        fixed = self.model.signature.inputs[0].shape[0]
        size = fixed if isinstance(fixed, int) else len(inputs[0])
        parts = [self._run({name: value[start : start + size] for name, value in given.items()}, size)
                 for start in range(0, len(inputs[0]), size)]  # fmt: skip
        device = inputs[0].device
        return {
            name: torch.as_tensor(np.concatenate([part[name] for part in parts])).to(device) for name in self._names
        }

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return next(iter(self.outputs(inputs).values()))

    def _run(self, inputs: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        """One call; a last batch that a fixed size does not divide is filled up with its last sample."""
        count = len(next(iter(inputs.values())))
        missing = size - count
        filled = {
            name: np.concatenate([value, np.repeat(value[-1:], missing, axis=0)]) if missing else value
            for name, value in inputs.items()
        }
        # A copy: the runtime uses the memory again for the next batch.
        return {name: value[:count].copy() for name, value in self._graph.run(filled).items()}


@dataclass
class CachedTeacher:
    """A teacher that is asked about a sample of the train split only once, and only once about one batch.

    indices name samples: inputs that augmentation changes must not be asked for by them.
    """

    teacher: Teacher
    limit_bytes: int

    def __post_init__(self) -> None:
        self._known: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0
        self._last: tuple[tuple[Tensor, ...], dict[str, Tensor]] | None = None

    def outputs(self, inputs: tuple[Tensor, ...], indices: Tensor | None) -> dict[str, Tensor]:
        """All outputs, as the teacher names them."""
        if self._last is not None and _are_same(inputs, self._last[0]):
            return self._last[1]
        names: list[int] = [] if indices is None else indices.tolist()
        if names and all(name in self._known for name in names):
            known = [self._known[name] for name in names]
            found = {key: torch.stack([one[key] for one in known]).to(inputs[0].device) for key in known[0]}
        else:
            found = self.teacher.outputs(inputs)
            self._keep(names, found)
        self._last = inputs, found
        return found

    def __call__(self, inputs: tuple[Tensor, ...], indices: Tensor | None) -> Tensor:
        """The first output."""
        return next(iter(self.outputs(inputs, indices).values()))

    def _keep(self, names: list[int], outputs: dict[str, Tensor]) -> None:
        size = sum(value.nbytes for value in outputs.values())
        if not names or self._bytes + size > self.limit_bytes:
            return
        self._bytes += size
        kept = {key: value.detach().cpu().clone() for key, value in outputs.items()}
        self._known |= {name: {key: value[row] for key, value in kept.items()} for row, name in enumerate(names)}


def _are_same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    """Whether they are the very same tensors."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
