"""The outputs beside the first: without labels of their own they are held to what the original network computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.data import Split
from compressctl.core.events import Events
from compressctl.core.model import Signature, TensorSpec, TorchModel, fits
from compressctl.core.technique import RunContext
from compressctl.graph.torch_outputs import named_outputs
from compressctl.training.data import TensorBatch, tensor_batches
from compressctl.training.objective import Objective
from compressctl.training.params import TrainingParams
from compressctl.training.supervision.teacher import REMEMBERED_BYTES, CachedTeacher, teacher_of

_PROBE_SAMPLES = 256
"""Samples that tell how much an output varies, and how far training moved it: a standard deviation is known within some 5 %."""

_MOVED = 0.01
"""Of an output's standard deviation, beyond which an output that nothing trains is said to have moved."""

_STILL_APART = 0.1
"""The same for an output that is held to the original's."""


@dataclass(frozen=True)
class Held:
    """teachers_name: of the output that is the target. variance: of that output over samples, its mean over all elements."""

    teachers_name: str
    variance: float


@dataclass(frozen=True)
class OtherOutputs:
    """held: outputs with a loss of their own, by name. untrained: the others, with the reason. weight: of each loss.

    whose: who the target comes from, in words. teacher: None where no output is held. compared: what the outputs are compared
    with after training, by name.
    """

    held: Mapping[str, Held]
    untrained: Mapping[str, str]
    weight: float
    whose: str
    teacher: CachedTeacher | None
    compared: Mapping[str, Held] = field(default_factory=dict)

    def tell(self, events: Events) -> None:
        """Say before training what each output learns from."""
        if self.held:
            events.emit(
                "note",
                message=f"no labels are known for {', '.join(self.held)}: held to {self.whose}'s outputs while the first output is "
                f"trained (other_outputs_weight: {self.weight:g})",
            )
        for name, reason in self.untrained.items():
            events.warn(f"{name} is not trained, and training the first output may change it: {reason}")


def other_outputs(
    model: TorchModel, params: TrainingParams, run: RunContext, teacher: CachedTeacher | None = None
) -> OtherOutputs | None:
    """What the outputs after the first learn from, without those whose head has labels; None for a network without such outputs.

    teacher: of a distillation. Its outputs are the targets where it has outputs of these shapes, else the original model's.
    Loads a copy of the original model where there is no such teacher.
    """
    is_taught = teacher is not None or getattr(params, "teacher", None) is not None
    labelled = () if is_taught else {head.place for head in run.learning.heads.values()}
    others = [spec for place, spec in enumerate(model.signature.outputs) if place > 0 and place not in labelled]
    if not others:
        return None
    whose = "the teacher"
    if teacher is None or len(_matched(model.signature, teacher.teacher.model.signature)) < len(others):
        whose = "the original"
        limit = 0 if params.inputs_vary else REMEMBERED_BYTES
        teacher = None if run.original is None else CachedTeacher(teacher_of(run.original()), limit)
    if teacher is None:
        nobody = dict.fromkeys((spec.name for spec in others), "this run has no original model to hold it to")
        return OtherOutputs({}, nobody, params.other_outputs_weight, whose, None)
    matched = _matched(model.signature, teacher.teacher.model.signature)
    variances = _variances(teacher, set(matched.values()), model.signature, run)
    untrained = {spec.name: reason for spec in others if (reason := _unfit(spec, matched, variances, whose))}
    ours = {spec.name for spec in others} - set(untrained)
    compared = {name: Held(theirs, variances[theirs]) for name, theirs in matched.items() if name in ours}
    if params.other_outputs_weight == 0:
        untrained |= dict.fromkeys(compared, "other_outputs_weight is 0")
        return OtherOutputs({}, untrained, 0.0, whose, teacher, compared)
    return OtherOutputs(compared, untrained, params.other_outputs_weight, whose, teacher, compared)


class HoldingOutputs:
    """An objective with, for each held output, weight * log(1 + squared difference to the teacher's / its variance), a mean over samples.

    Near the target this is the difference itself. Far from it the logarithm keeps gradients bounded: an output that varies
    little, divided by its variance, would throw a step of a usual learning rate further away than it was.
    The network runs once: its outputs are taken from the pass that the objective makes.
    """

    def __init__(self, objective: Objective, outputs: OtherOutputs) -> None:
        self._objective = objective
        self._outputs = outputs

    def __call__(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        passes: list[tuple[tuple[Tensor, ...], Any]] = []
        with network.register_forward_hook(lambda _, given, made: passes.append((given, made))):
            loss = self._objective(network, batch)
        if not passes:
            return loss
        given, made = passes[-1]
        # An objective may draw inputs of its own, which stand for no sample.
        is_batch = len(given) == len(batch.inputs) and all(a is b for a, b in zip(given, batch.inputs, strict=True))
        teacher = self._outputs.teacher
        assert teacher is not None
        wanted, found = teacher.outputs(given, batch.indices if is_batch else None), named_outputs(made)
        for name, held in self._outputs.held.items():
            distances = _distances(found[name], wanted[held.teachers_name], held)
            loss = loss + self._outputs.weight * distances.log1p().mean()
        return loss


def facts(outputs: OtherOutputs, network: nn.Module, signature: Signature, run: RunContext) -> dict[str, Any]:
    """By output: what it was trained on, and how far it is from the original's, in standard deviations. Warns of what moved.

    Measured on samples of the validation split, of the train split where there is none. The network is on the CPU.
    """
    moved = _moved(outputs, network, signature, run)
    found: dict[str, Any] = {}
    for name in [*outputs.held, *outputs.untrained]:
        reason = outputs.untrained.get(name)
        entry = {"held_to": outputs.whose, "weight": outputs.weight} if reason is None else {"untrained": reason}
        found[name] = entry | ({"moved": round(moved[name], 4)} if name in moved else {})
        if moved.get(name, 0.0) > (_STILL_APART if reason is None else _MOVED):
            how = f"although it is held to {outputs.whose}'s" if reason is None else "since nothing trains it"
            run.events.warn(
                f"training moved {name} by {moved[name]:.0%} of its standard deviation, {how}: "
                f"{'raise other_outputs_weight' if reason is None or outputs.compared else 'judge it before you use it'}"
            )
    return found


def _matched(ours: Signature, theirs: Signature) -> dict[str, str]:
    """Our outputs after the first to theirs of the same name, or at the same place where names differ; shapes must fit."""
    by_name = {spec.name: spec for spec in theirs.outputs}
    matched: dict[str, str] = {}
    for place, spec in enumerate(ours.outputs[1:], start=1):
        at_place = theirs.outputs[place] if place < len(theirs.outputs) else None
        found = by_name.get(spec.name, at_place)
        if found is not None and fits(spec.shape[1:], found.shape[1:]):
            matched[spec.name] = found.name
    return matched


def _unfit(spec: TensorSpec, matched: Mapping[str, str], variances: Mapping[str, float], whose: str) -> str | None:
    """Why an output cannot be held to the teacher's, None where it can."""
    if not spec.dtype.startswith(("float", "bfloat")):
        return f"its values are {spec.dtype}, through which no gradient flows"
    if spec.name not in matched:
        return f"{whose} has no output of that name or place with its shape"
    if matched[spec.name] not in variances:
        return f"{whose}'s is not finite on all samples"
    return None


def _variances(teacher: CachedTeacher, names: set[str], signature: Signature, run: RunContext) -> dict[str, float]:
    """Of the teacher's outputs over samples of the train split; outputs that are not finite are left out.

    Of an output that is the same for all samples, the mean square.
    """
    assert run.data is not None
    outputs = [teacher.teacher.outputs(batch.inputs) for batch in _probe(run.data.split("train"), signature)]
    found: dict[str, float] = {}
    for name in sorted(names):
        values = torch.cat([part[name].double().cpu() for part in outputs])
        if not bool(torch.isfinite(values).all()):
            continue
        variance = float(((values - values.mean(dim=0)) ** 2).mean())
        found[name] = variance if variance > 0 else max(float((values**2).mean()), 1e-12)
    return found


def _moved(outputs: OtherOutputs, network: nn.Module, signature: Signature, run: RunContext) -> dict[str, float]:
    """Root of the mean squared difference to the teacher's, over its standard deviation, by output."""
    if outputs.teacher is None or not outputs.compared:
        return {}
    assert run.data is not None
    validation = run.data.split("validation")
    sums, count = dict.fromkeys(outputs.compared, 0.0), 0
    with torch.no_grad():
        for batch in _probe(validation if len(validation) else run.data.split("train"), signature):
            wanted = outputs.teacher.teacher.outputs(batch.inputs)
            found = named_outputs(network(*batch.inputs))
            for name, held in outputs.compared.items():
                sums[name] += float(_distances(found[name], wanted[held.teachers_name], held).sum())
            count += len(batch)
    return {name: (total / count) ** 0.5 for name, total in sums.items()}


def _probe(split: Split, signature: Signature) -> list[TensorBatch]:
    """The split's first samples, in small batches."""
    batches, count = [], 0
    for batch in tensor_batches(split, signature, 32):
        batches.append(batch)
        count += len(batch)
        if count >= _PROBE_SAMPLES:
            break
    return batches


def _distances(ours: Tensor, theirs: Tensor, held: Held) -> Tensor:
    """(n,) of each sample: mean squared difference over the variance."""
    squares = (ours.float() - theirs.float()) ** 2
    return squares.reshape(len(squares), -1).mean(dim=1) / held.variance
