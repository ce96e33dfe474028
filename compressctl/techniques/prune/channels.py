"""prune.channels: find what can go, choose the widths, cut, and let the norms measure the smaller network."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from compressctl.core.data import first_filled
from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.patterns import literal, matching
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.channels.dependency_groups import (
    Coupling,
    Group,
    example_inputs,
    find_coupling,
    permitted_widths,
)
from compressctl.layers.channels.verify_group import proven
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.prune._allocate import Choice, Kept, allocate, allocate_measured
from compressctl.techniques.prune._criteria import normalized, scores
from compressctl.techniques.prune._measured_widths import narrow, reach_latency, saved_us
from compressctl.techniques.prune._sparse_learning import GroupNorm, Growing, Pull
from compressctl.techniques.prune.params import ChannelOverride, ChannelsParams
from compressctl.training.batchnorm_recalibration import recalibrate_bn
from compressctl.training.data import TensorBatch, tensor_batches
from compressctl.training.loop import train
from compressctl.training.lora.train import train_adaptable
from compressctl.training.objective import task_objective
from compressctl.training.supervision.objective import objective_of

_ROUND_TO = 8
"""x86 kernels hold channels in blocks of 8 (AVX2) or 16 (AVX-512), tensor cores want multiples of 8; a part-filled block costs
as much as a full one. Source: ONNX Runtime's MLAS, `MlasNchwcGetBlockSize`."""


def apply(model: TorchModel, params: ChannelsParams, run: RunContext) -> StageResult:
    """Cut in params.iterations steps. Raises UsageError for a pattern that matches nothing or data that is missing, StageError
    when the goal cannot be met."""
    first = find_plan(model, params, run)
    _tell(first, run)
    facts: dict[str, Any] = {"criterion": params.criterion, "scope": params.scope, "round_to": _round_to(params)}
    current = replace(model, body=copy.deepcopy(model.body))
    if params.regularization is not None:
        current, facts["sparse_learning"] = _learn_sparsely(current, params, run)
    steps = []
    for step in range(params.iterations):
        keep = params.keep if step == params.iterations - 1 else 1 - (1 - params.keep) * (step + 1) / params.iterations
        current, found = _cut_once(current, model, params, keep, run)
        steps.append(found)
    facts["steps"] = steps
    facts |= _difference(model, current, first)
    return StageResult(current, facts, pinned=_pinned(params, first, facts["widths"]))


def _pinned(params: ChannelsParams, plan: Plan, widths: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """What a clock chose, as shares that no clock is asked for; None where none chose, or several cuts did. widths: before and after, by layer."""
    by_clock = params.scope == "measured" or params.of == "latency"
    if not by_clock or params.iterations > 1 or params.regularization is not None:
        return None
    overrides: list[dict[str, Any]] = [{"match": "*", "keep": 1.0}]
    for group in plan.groups:
        before, after = widths[group.name]
        overrides.append({"match": literal(group.name), "keep": after / before})
    told = {"keep": 1.0, "of": "macs", "scope": "isomorphic", "overrides": overrides}
    return {"use": "prune.channels", **params.model_dump(mode="json"), **told}


@dataclass(frozen=True)
class Plan:
    """choices: groups that can shrink, with their scores. weakest: by group, units in the order in which they go.

    fixed: layers that stay and why. measured: layers with their positions, for costs.
    """

    choices: tuple[Choice, ...]
    weakest: Mapping[str, np.ndarray]
    fixed: Mapping[str, str]
    measured: Mapping[str, costs.Layer] = field(default_factory=dict)

    @property
    def groups(self) -> list[Group]:
        return [choice.group for choice in self.choices]

    def cost(self, of: Any, kept: Kept) -> float:
        units = {group.name: self.weakest[group.name][: group.units - kept[group.name]] for group in self.groups}
        return costs.cost(of, self.measured, self.groups, units)


def find_plan(model: TorchModel, params: ChannelsParams, run: RunContext, original: TorchModel | None = None) -> Plan:
    """What can go in this network. original: the network before the first cut, whose widths overrides and min_keep mean."""
    network: nn.Module = model.body
    inputs = example_inputs(model.signature)
    coupling = proven(find_coupling(network, inputs), network, inputs)
    fixed, full = dict(coupling.fixed), costs.widths((original or model).body)
    shares = _overridden(coupling, params.overrides, full)
    found = scores(network, coupling.groups, params.criterion, **_evidence(model, params, run))
    comparable = normalized(found, params.criterion)
    choices = []
    for group in coupling.groups:
        reason, choice = _choice(group, comparable[group.name], shares.get(group.name), full[group.name], params)
        if reason:
            fixed.update(dict.fromkeys(group.layers, reason))
        else:
            choices.append(choice)
    weakest = {choice.group.name: np.argsort(found[choice.group.name], kind="stable") for choice in choices}
    return Plan(tuple(choices), weakest, fixed, costs.layers(network, inputs))


def _choice(
    group: Group, values: np.ndarray, share: float | None, full: int, params: ChannelsParams
) -> tuple[str | None, Choice]:
    """The group as a choice, with the reason where it is none. full: its width before the first cut."""
    round_to = _round_to(params)
    if share is not None:
        asked = Choice(group, permitted_widths(group, round_to, 0.0), np.sort(values))
        wanted = share * full * group.units / group.width
        return ("an override keeps it whole" if share == 1 else None), replace(asked, pinned=asked.nearest(wanted))
    widths = permitted_widths(group, round_to, params.min_keep * full / group.width)
    if np.isnan(values).any():
        return f"{params.criterion} has nothing to judge it by: no BatchNorm follows", Choice(group, widths, values)
    if len(widths) < 2:
        reason = f"too few channels: {group.width} cannot be fewer, at least {params.min_keep:.0%} and a multiple of {round_to}"
        return reason, Choice(group, widths, values)
    return None, Choice(group, widths, np.sort(values))


def _overridden(coupling: Coupling, overrides: Sequence[ChannelOverride], layers: Iterable[str]) -> dict[str, float]:
    """Share to keep by group. Raises UsageError for a pattern that matches no layer."""
    names = list(layers)
    shares: dict[str, float] = {}
    for override in overrides:
        matched = set(matching(override.match, names, lambda name: (name,)))
        shares.update({group.name: override.keep for group in coupling.groups if matched & set(group.layers)})
    return shares


def _evidence(model: TorchModel, params: ChannelsParams, run: RunContext) -> dict[str, Any]:
    """What a criterion reads beside the weights."""
    if not params.looks_at_samples:
        return {"seed": run.seed}
    split = first_filled(run.data, "train", "calibration")
    if split is None:
        raise UsageError(
            f"criterion {params.criterion} looks at samples, and there are none", hint="add a data section"
        )

    def batches(size: int) -> Iterable[TensorBatch]:
        read = tensor_batches(split, model.signature, size, shuffle_seed=run.seed)
        return itertools.islice(read, max(1, params.samples // size))

    loss = task_objective(run.learning) if params.looks_at_the_loss else None
    return {"seed": run.seed, "batches": batches, "loss": loss}


def _cut_once(
    current: TorchModel, original: TorchModel, params: ChannelsParams, keep: float, run: RunContext
) -> tuple[TorchModel, dict[str, Any]]:
    """One cut, after which `keep` is left of the original, with what recovers from it."""
    plan = find_plan(current, params, run, original)
    if not plan.choices:
        raise NothingToCompressError(
            "nothing can be removed", hint="; ".join(f"{k}: {v}" for k, v in list(plan.fixed.items())[:4])
        )
    kept, found = _widths(plan, current, original, params, keep, run)
    smaller = narrow(current, plan.choices, kept, plan.weakest)
    split = first_filled(run.data, "train", "calibration") if params.bn_samples else None
    if split is not None:
        found["norms_reestimated"] = recalibrate_bn(smaller.body, split, smaller.signature, samples=params.bn_samples)
    if params.finetune is not None:
        objective, hooks = objective_of(smaller, params.finetune, run)
        trained = train_adaptable(smaller, objective, params.finetune, run.part(f"after-{keep:.6f}"), hooks)
        smaller, found["finetune"] = replace(smaller, body=trained.network), dict(trained.facts)
    return smaller, found


def _widths(
    plan: Plan, current: TorchModel, original: TorchModel, params: ChannelsParams, keep: float, run: RunContext
) -> tuple[Kept, dict[str, Any]]:
    """Units that stay, and what the choice was based on."""
    before = costs.layers(original.body, example_inputs(original.signature))
    of = "macs" if params.of == "latency" else params.of
    whole = costs.cost(of, before, (), {})
    table = saved_us(current, plan.choices, run) if params.scope == "measured" else {}

    def choose(share: float) -> Kept:
        if params.scope == "measured":
            return allocate_measured(plan.choices, table, share * whole, lambda kept: plan.cost(of, kept))
        return allocate(plan.choices, params.scope, share * whole, lambda kept: plan.cost(of, kept))

    found: dict[str, Any] = {"goal": {params.of: keep}}
    if table:
        found["saved_us"] = {
            name: {str(width): round(us, 2) for width, us in row.items()} for name, row in table.items()
        }
    if params.of == "latency":

        def candidate(share: float) -> tuple[Kept, nn.Module]:
            kept = choose(share)
            return kept, narrow(current, plan.choices, kept, plan.weakest).body

        kept, reached = reach_latency(original, keep, candidate, run)
        return kept, {**found, "reached": {"latency": reached}}
    kept = choose(keep)
    reached = plan.cost(of, kept) / whole
    if reached > keep:
        run.events.warn(f"{reached:.1%} of the {of} are left, {keep:.1%} were asked for: nothing more can be removed")
    return kept, {**found, "reached": {of: reached}}


def _learn_sparsely(model: TorchModel, params: ChannelsParams, run: RunContext) -> tuple[TorchModel, dict[str, Any]]:
    assert params.regularization is not None
    plan = find_plan(model, params, run)
    hook: Pull
    if params.regularization.method == "group_norm":
        hook = GroupNorm(model.body, plan.groups, params.regularization.strength)
    else:
        kept, _ = _widths(plan, model, model, params, params.keep, run)
        going = {g.name: plan.weakest[g.name][: g.units - kept[g.name]] for g in plan.groups}
        hook = Growing(model.body, plan.groups, params.regularization.strength, going)
    # The best epoch would be the first: pulling costs accuracy, which the cut then does not.
    how = params.regularization.model_copy(update={"checkpoint": "last"})
    trained = train(model, task_objective(run.learning, how.label_smoothing), how, run.part("sparse"), (hook,))
    return replace(model, body=trained.network), dict(trained.facts)


def _round_to(params: ChannelsParams) -> int:
    return _ROUND_TO if params.round_to == "auto" else params.round_to


def _tell(plan: Plan, run: RunContext) -> None:
    """Say what stays before anything takes time."""
    for reason in dict.fromkeys(plan.fixed.values()):
        names = [name for name, why in plan.fixed.items() if why == reason]
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        run.events.emit("note", message=f"not pruned: {shown}: {reason}")


def _difference(before: TorchModel, after: TorchModel, plan: Plan) -> dict[str, Any]:
    old, new = costs.widths(before.body), costs.widths(after.body)
    return {
        **costs.change(before.body, after.body, example_inputs(before.signature)),
        "widths": {name: [old[name], new[name]] for name in old},
        "not_pruned": dict(plan.fixed),
    }
