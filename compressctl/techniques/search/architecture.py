"""search.architecture: the subnetwork that loses least within limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compressctl.core.errors import StageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.search._evolution import Loss, Sensitivity, by_threshold, evolved, fitted, measured
from compressctl.techniques.search._meters import Goal, meters
from compressctl.techniques.search._predicted import Foretold, PredictedMemory, predicted
from compressctl.techniques.search._searched import comparison_of, recovered
from compressctl.techniques.search._space import Space, Subnetwork
from compressctl.techniques.search.params import ArchitectureParams

_SUPERNET = "search.supernet"

_SHOWN = 12
"""Subnetworks of a search in the report."""

_BROKEN = 1e9
"""The loss of a subnetwork whose outputs are no numbers."""

_ROUNDS = 4
"""Of searching, measuring, and searching again with what was measured."""


def apply(model: TorchModel, params: ArchitectureParams, run: RunContext) -> StageResult:
    """Search, cut, let the norms measure the subnetwork, and train it where the params say so. Raises NothingToCompressError where the network has
    no subnetworks, UsageError for an architecture that it does not have, StageError where none keeps the limits."""
    is_trained = any(record.use == _SUPERNET for record in model.history)
    space = Space(model, params, run, is_sorted=is_trained, nested=True)
    facts: dict[str, Any] = {}
    if params.architecture is not None:
        found = space.named(params.architecture)
    else:
        found, facts = _Search(space, params, run, is_trained=is_trained).found()
    smaller = space.cut(found)
    smaller, recovery = recovered(smaller, params, run)
    facts |= recovery
    spelt = space.spelled(found)
    facts |= {
        "architecture": spelt,
        "widths": {name: [space.groups[name].whole, width] for name, width in found.widths},
        "fixed": dict(space.narrower.fixed),
        **costs.change(space.entire.body, smaller.body, example_inputs(model.signature)),
    }
    return StageResult(smaller, facts, pinned=_pinned(params, spelt))


def _pinned(params: ArchitectureParams, architecture: Mapping[str, object]) -> dict[str, Any]:
    # How it was searched stays, for those who search from there on.
    kept = params.model_dump(mode="json", exclude={"at_most", "architecture"}, exclude_unset=True)
    return {"use": "search.architecture", **kept, "architecture": dict(architecture)}


class _Search:
    """is_trained: whether subnetworks compute with weights that they were trained with."""

    def __init__(self, space: Space, params: ArchitectureParams, run: RunContext, *, is_trained: bool) -> None:
        assert params.at_most is not None
        self._space, self._params, self._run = space, params, run
        self._goal = Goal(params.at_most)
        self._evolves = params.method == "evolution" or (params.method == "auto" and is_trained)
        self._loss = _remembered(space, params, run)
        self._counted: dict[str, Callable[[Subnetwork], float]] = {"macs": space.macs, "parameters": space.parameters}
        self._measured: dict[str, Foretold] = {}
        if params.at_most.memory is not None:
            self._measured["memory"] = PredictedMemory(space, run.target.batch_size)
        for name, meter in meters(params.at_most, run).items():
            self._measured[name] = predicted(space, name, meter, run)
            self._goal.set_whole(name, self._measured[name].whole)

    def found(self) -> tuple[Subnetwork, dict[str, Any]]:
        """The best, and how it was found. What only a runtime tells is held by what was measured: where tables were too hopeful, searched again."""
        known = measured(
            self._space, self._loss, lambda done, count: self._tell("measuring what each layer loses", done, count)
        )
        facts: dict[str, Any] = {
            "goal": dict(self._goal.shares),
            "method": "evolution" if self._evolves else "sensitivity",
        }
        for _ in range(_ROUNDS):
            ranked = self._ranked(known)
            loss, best = ranked[0]
            reached = {name: self._share(name, best) for name in self._goal.shares}
            foretold = {name: reached[name] for name in self._measured}
            reached |= {name: each.measure(best) for name, each in self._measured.items()}
            over = self._goal.exceeded({name: reached[name] for name in self._measured})
            if not over:
                break
        else:
            raise StageError(
                f"no subnetwork was found that keeps what is measured: {over}",
                hint="lower min_keep, let more blocks go, or ask for less",
            )
        facts |= {
            "reached": reached,
            **({"predicted": foretold} if foretold else {}),
            "loss": {"whole": self._loss(self._space.whole), "subnetwork": loss},
            "looked_at": len(ranked),
            "sensitivity": _rounded(known),
            "others": [self._entry(rise, one) for rise, one in ranked[:_SHOWN]],
        }
        return best, facts

    def _ranked(self, known: Sensitivity) -> list[tuple[float, Subnetwork]]:
        generator = np.random.default_rng(self._run.seed)
        first = by_threshold(self._space, known, self._over)
        if first is not None and not self._evolves:
            return [(self._loss(first), first)]
        starts = [self._space.uniform(share) for share in (0.75, 0.5, 0.25)]
        start = [made for one in starts if (made := fitted(self._space, one, self._over, generator)) is not None]
        if first is None and not start:
            raise StageError(
                f"no subnetwork keeps the limits: {self._least()}",
                hint="lower min_keep, let more blocks go (blocks), or ask for less",
            )
        if not self._evolves:
            return sorted(((self._loss(one), one) for one in start), key=lambda entry: entry[0])
        return evolved(
            self._space, [*([first] if first else []), *start], self._over, self._loss, generator, self._params.evaluations, self._params.population,
            lambda done, count: self._tell("looking at subnetworks", done, count),
        )  # fmt: skip

    def _least(self) -> str:
        smallest = self._space.smallest(np.random.default_rng(0))
        shares = (
            f"{name} {self._share(name, smallest):.0%} at least, {limit:.0%} was asked for"
            for name, limit in self._goal.shares.items()
        )
        return ", ".join(shares)

    def _over(self, subnetwork: Subnetwork) -> float:
        return max(self._share(name, subnetwork) - limit for name, limit in self._goal.shares.items())

    def _share(self, of: str, subnetwork: Subnetwork) -> float:
        if of in self._measured:
            return self._measured[of](subnetwork) / self._measured[of].whole
        cost = self._counted[of]
        return cost(subnetwork) / cost(self._space.whole)

    def _entry(self, loss: float, one: Subnetwork) -> dict[str, Any]:
        shares: dict[str, Any] = {name: round(self._share(name, one), 4) for name in (*self._counted, *self._measured)}
        return {"loss": round(loss, 5), **shares, **self._space.spelled(one)}

    def _tell(self, what: str, done: int, count: int) -> None:
        self._run.events.progress(what, done, count)


def _remembered(space: Space, params: ArchitectureParams, run: RunContext) -> Loss:
    loss = comparison_of(space.entire, params, run)
    known: dict[Subnetwork, float] = {}

    def of(subnetwork: Subnetwork) -> float:
        if subnetwork not in known:
            found = loss(space.cut(subnetwork).body)
            known[subnetwork] = found if math.isfinite(found) else _BROKEN
        return known[subnetwork]

    return of


def _rounded(known: Sensitivity) -> dict[str, Any]:
    widths = {name: {str(width): round(rise, 5) for width, rise in row.items()} for name, row in known.widths.items()}
    return {"channels": widths, "blocks": {name: round(rise, 5) for name, rise in known.blocks.items()}}
