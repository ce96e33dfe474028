"""Who learns: the model as it comes in, a network by factory, or the teacher with fewer channels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import Model, TorchModel
from compressctl.core.technique import RunContext
from compressctl.layers.channels.dependency_groups import (
    Group,
    example_inputs,
    find_coupling,
    nearest_width,
    permitted_widths,
)
from compressctl.layers.channels.surgery import cut, removal
from compressctl.layers.channels.verify_group import proven
from compressctl.layers.channels.weights import channel_norms
from compressctl.techniques.distill._adapters import reinitialise
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


_STEP = 8
"""Widths become multiples of it, narrow ones of half of it."""

_NARROW = 32


@dataclass(frozen=True)
class Shrunk:
    """widths: "32 -> 16" by the first layer of each group that shares a width. whole: why others kept theirs."""

    network: nn.Module
    widths: Mapping[str, str]
    whole: Mapping[str, str]


def shrink(network: nn.Module, inputs: Sequence[Tensor], share: float) -> Shrunk:
    """A copy with the share of channels that is largest in every group of layers that share a width.

    The size of a channel is the L2 norm of its weights in all layers of its group.
    Raises NothingToCompressError when nothing can be cut.
    """
    coupling = proven(find_coupling(network, inputs), network, inputs)
    kept = {group.name: kept_units(group, share) for group in coupling.groups}
    smaller = [group for group in coupling.groups if kept[group.name] < group.units]
    if not smaller:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(coupling.fixed.items())[:3])
        raise NothingToCompressError(
            f"no layer of the teacher can lose channels{f' ({reasons})' if reasons else ''}",
            hint="give the student by `factory`",
        )
    weakest = {group.name: np.argsort(channel_norms(network, group, 2), kind="stable") for group in smaller}
    units = {group.name: weakest[group.name][: group.units - kept[group.name]] for group in smaller}
    widths = {group.name: f"{group.width} -> {kept[group.name] * group.width // group.units}" for group in smaller}
    return Shrunk(cut(network, removal(smaller, units)), widths, coupling.fixed)


def kept_units(group: Group, share: float) -> int:
    """About this share of a group's units: channels in multiples of 8, of 4 below 32, and never more than there are."""
    step = _STEP // 2 if share * group.width < _NARROW else _STEP
    return nearest_width(permitted_widths(group, step, 0.0), share * group.units)
