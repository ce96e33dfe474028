"""Weights that were quantized before a stage that runs layers on integers: their codes serve, where its kernels take them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compressctl.core.events import Events
from compressctl.core.model import OnnxModel
from compressctl.core.quant import TensorQuant
from compressctl.core.target import Target
from compressctl.graph.carry import Carried
from compressctl.graph.codes import weight_values
from compressctl.graph.index import all_nodes, index
from compressctl.graph.own_copies import Copied
from compressctl.graph.requantize import for_kernels, readers
from compressctl.graph.sites import Site, fits_kernel


@dataclass(frozen=True)
class Before:
    """plan: by weight, copies included. left: nodes whose weight has codes that no integer kernel takes: it is read in float.

    again: why a weight is rounded again all the same.
    """

    plan: Mapping[str, TensorQuant] = field(default_factory=dict)
    left: frozenset[str] = frozenset()
    again: Mapping[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        return {"rounded_again": dict(self.again)} if self.again else {}


def quantized_before(
    carried: Carried, copied: Copied, sites: Sequence[Site], target: Target, events: Events, *, guards: bool
) -> Before:
    """copied: the graph of now, in which equalize or smooth may have moved scales into weights. sites: what shall run on
    integers there. guards: whether codes that overflow on the target are rounded again. Everything rounded again is warned of.
    """
    if not carried.weights:
        return Before()
    was, now = index(carried.model.graph), index(copied.model.graph)
    origins = {name: of for name in now.initializers if (of := copied.of.get(name, name)) in carried.weights}
    plan = {name: carried.weights[of] for name, of in origins.items() if _is_same(was.array(of), now.array(name))}
    again = {name: "since equalize or smooth moved scales into it" for name in origins if name not in plan}
    left: set[str] = set()
    for name, reading in readers(sites).items():
        if name not in plan:
            continue
        if not all(fits_kernel(site.weight_axis, plan[name]) for site in reading):
            left.update(site.node for site in reading)
            continue
        plan[name], why = for_kernels(plan[name], reading, copied.model, target, guards=guards)
        if why:
            again[name] = why
    for name, why in again.items():
        events.warn(f"{name} was quantized before and is rounded again, {why}")
    return Before(plan, frozenset(left), again)


def with_codes_kept(model: OnnxModel, before: Collection[str]) -> OnnxModel:
    """The model, in which what this stage leaves in float stores the codes of the weights that it had.

    before: names of those weights. Where a node's weight is another one by now, as after equalizing, its numbers are no longer those of codes.
    """
    plan = model.quant
    if plan is None or not before:
        return model
    found = index(model.body.graph)
    on_grid: dict[str, bool] = {}
    kept = set()
    for node in all_nodes(model.body.graph):
        names = (
            [name for name in node.input if name in before and name in plan.weights]
            if node.name in plan.float_nodes
            else []
        )
        for name in names:
            if name not in on_grid:
                values = found.array(name)
                on_grid[name] = values is not None and np.array_equal(weight_values(values, plan.weights[name]), values)
        if names and all(on_grid[name] for name in names):
            kept.add(node.name)
    return replace(model, quant=replace(plan, weights_alone=frozenset(kept)))


def _is_same(before: np.ndarray | None, now: np.ndarray | None) -> bool:
    return before is not None and now is not None and np.array_equal(before, now)
