"""Which layers become cheaper ones: the exact least sum of what each loses alone, within limits, and the latency held by the clock."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from compressctl.core.errors import NothingToCompressError, StageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.numerics.knapsack import Limit, Link, choose
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.search._meters import Goal, Meter, meters
from compressctl.techniques.search._searched import comparison_of
from compressctl.techniques.search._sites import GONE, WHOLE, Site, with_chosen
from compressctl.techniques.search.params import ReplacementsParams

_ROUNDS = 4
"""Of choosing, timing what was chosen, and choosing again."""

_TOGETHER = 6
"""Networks that are timed in one go."""

_SLACK = 1e-9
"""Of the whole, for sums of floats."""

_BROKEN = 1e6
"""The rise of the loss where outputs are no numbers."""

_LEAST = 1e-3
"""Of the network's loss, or of the largest rise: what each change is taken to lose at least, since samples tell no finer and many small losses add up."""


class Choice:
    def __init__(self, sites: Sequence[Site], model: TorchModel, params: ReplacementsParams, run: RunContext) -> None:
        assert params.at_most is not None
        self._sites = [site for site in sites if len(site.options) > 1 or site.inside]
        if all(len(site.options) == 1 for site in self._sites):
            raise NothingToCompressError("nothing that is known takes less than the network's own layers")
        self._model, self._run, self._params = model, run, params
        inputs = example_inputs(model.signature)
        measured = costs.layers(model.body, inputs)
        self._whole: dict[str, float] = {of: costs.cost(of, measured, (), {}) for of in ("macs", "parameters")}
        self._goal = Goal(params.at_most)
        self._meters = meters(params.at_most, run)
        self._saved: dict[str, dict[str, dict[str, float]]] = {}
        self._factors = dict.fromkeys(self._meters, 1.0)
        for name, meter in self._meters.items():
            self._saved[name], self._whole[name] = _measured(self._sites, model, name, meter, run)
            self._goal.set_whole(name, self._whole[name])
        self._loss = comparison_of(model, params, run)

    def found(self) -> tuple[dict[str, str], dict[str, Any]]:
        whole = self._loss(copy.deepcopy(self._model.body))
        rises = self._rises(whole)
        counted = _counted(rises, whole)
        for _ in range(_ROUNDS):
            chosen = self._chosen(counted)
            made = with_chosen(self._model.body, self._sites, chosen)
            reached = {name: self._share(name, chosen) for name in self._goal.shares}
            foretold = {name: reached[name] for name in self._meters}
            reached |= {name: self._held(name, chosen, made) for name in self._meters}
            over = self._goal.exceeded({name: reached[name] for name in self._meters})
            if not over:
                break
        else:
            raise StageError(
                f"no choice of cheaper layers keeps what is measured: {over}",
                hint="ask for less, or prune channels as well (search.architecture)",
            )
        loss = self._loss(made)
        facts = {
            "goal": dict(self._goal.shares),
            "reached": {name: round(value, 4) for name, value in reached.items()},
            **({"predicted": {name: round(value, 4) for name, value in foretold.items()}} if foretold else {}),
            "loss": {"whole": whole, "replaced": loss if math.isfinite(loss) else None},
            "table": {site.name: self._row(site, rises[site.name]) for site in self._sites},
        }
        return chosen, facts

    def _rises(self, whole: float) -> dict[str, dict[str, float]]:
        """Of the loss, where one site alone is another."""
        found: dict[str, dict[str, float]] = {}
        count, done = sum(len(site.options) - 1 for site in self._sites), 0
        for site in self._sites:
            found[site.name] = {WHOLE: 0.0}
            for kind in site.options[1:]:
                self._run.events.progress("measuring what each cheaper layer loses", done, count)
                rise = self._loss(with_chosen(self._model.body, self._sites, {site.name: kind})) - whole
                found[site.name][kind] = rise if math.isfinite(rise) else _BROKEN
                done += 1
        return found

    def _chosen(self, rises: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
        """By site, exactly the least sum of rises within the limits. What lies in a block that goes costs and takes nothing."""
        places = {site.name: place for place, site in enumerate(self._sites)}
        options = [[*site.options, *([GONE] if site.inside in places else [])] for site in self._sites]
        losses = [
            [rises[site.name].get(kind, 0.0) for kind in kinds]
            for site, kinds in zip(self._sites, options, strict=True)
        ]
        links = [
            Link(place, places[site.inside], [int(kind == GONE) for kind in options[place]])
            for place, site in enumerate(self._sites)
            if site.inside in places
        ]
        limits = [self._limit(name, share, options) for name, share in self._goal.shares.items()]
        solved = choose(losses, limits, links)
        if solved is None:
            raise StageError(
                f"no choice of cheaper layers keeps the limits: {self._least()}",
                hint="ask for less, allow more kinds, or prune channels as well (search.architecture)",
            )
        return {site.name: options[place][solved[place]] for place, site in enumerate(self._sites)}

    def _limit(self, of: str, share: float, options: Sequence[Sequence[str]]) -> Limit:
        amounts = [
            [self._amount(of, site, kind) for kind in kinds] for site, kinds in zip(self._sites, options, strict=True)
        ]
        own = sum(self._amount(of, site, WHOLE) for site in self._sites)
        most = share * self._whole[of] / self._factors.get(of, 1.0) - (self._whole[of] - own)
        return Limit(amounts, most + _SLACK * self._whole[of])

    def _amount(self, of: str, site: Site, kind: str) -> float:
        """Of what is measured, what is saved, below zero; a block saves its all."""
        if of in self._saved:
            saved = 0.0 if kind == GONE and not site.is_block else self._saved[of][site.name].get(kind, 0.0)
            return -saved
        return {"macs": site.macs, "parameters": site.parameters}[of][kind]

    def _share(self, of: str, chosen: Mapping[str, str]) -> float:
        own = sum(self._amount(of, site, WHOLE) for site in self._sites)
        taken = sum(self._amount(of, site, chosen[site.name]) for site in self._sites)
        return (self._whole[of] - own + taken) / self._whole[of] * self._factors.get(of, 1.0)

    def _held(self, name: str, chosen: Mapping[str, str], made: nn.Module) -> float:
        """The share of the whole's that the choice takes, as it is measured; what was predicted is corrected by it."""
        before, after = self._meters[name]([self._model, replace(self._model, body=made)])
        self._factors[name] *= after / before / self._share(name, chosen)
        return after / before

    def _least(self) -> str:
        shares = []
        for name, limit in self._goal.shares.items():
            least = {
                site.name: min(
                    [*site.options, *([GONE] if site.inside else [])], key=lambda kind: self._amount(name, site, kind)
                )
                for site in self._sites
            }
            shares.append(f"{name} {max(self._share(name, least), 0):.0%} at least, {limit:.0%} was asked for")
        return ", ".join(shares)

    def _row(self, site: Site, rises: Mapping[str, float]) -> dict[str, Any]:
        return {
            kind: {
                "loss_rise": round(rises[kind], 5),
                **({"distance": round(site.distance[kind], 4)} if kind in site.distance else {}),
                **({} if site.is_block else {"macs": round(site.macs[kind] / max(site.macs[WHOLE], 1), 3)}),
                **{f"saved_{name}": float(f"{saved[site.name][kind]:.4g}") for name, saved in self._saved.items()},
            }
            for kind in site.options[1:]
        }


def _counted(rises: Mapping[str, Mapping[str, float]], whole: float) -> dict[str, dict[str, float]]:
    known = [rise for row in rises.values() for rise in row.values() if rise < _BROKEN]
    least = _LEAST * max(whole, *known)
    return {
        name: {kind: 0.0 if kind == WHOLE else max(rise, least) for kind, rise in row.items()}
        for name, row in rises.items()
    }


def _measured(
    sites: Sequence[Site], model: TorchModel, name: str, meter: Meter, run: RunContext
) -> tuple[dict[str, dict[str, float]], float]:
    """What each kind saves, in milliseconds or joules, sites of one structure changed together, and what the network takes. name: of the limit, for the progress."""
    groups: dict[tuple[str, str], list[Site]] = {}
    for site in sites:
        for kind in site.options[1:]:
            groups.setdefault((site.alike, kind), []).append(site)
    saved: dict[str, dict[str, float]] = {site.name: {} for site in sites}
    whole, keys = 0.0, list(groups)
    for start in range(0, len(keys), _TOGETHER):
        run.events.progress(f"measuring what cheaper layers take ({name})", start, len(keys))
        some = keys[start : start + _TOGETHER]
        changed = [
            replace(model, body=with_chosen(model.body, sites, {site.name: kind for site in groups[alike, kind]}))
            for alike, kind in some
        ]
        whole, *others = meter([model, *changed])
        for key, other in zip(some, others, strict=True):
            for site in groups[key]:
                saved[site.name][key[1]] = (whole - other) / len(groups[key])
    return saved, whole
