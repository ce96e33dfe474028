"""search.replacements: layers become cheaper ones of a library, each fitted and scored alone, the best of them chosen together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compressctl.core.data import first_filled
from compressctl.core.errors import UsageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.techniques.prune import _costs as costs
from compressctl.techniques.search._choice import Choice
from compressctl.techniques.search._searched import recovered
from compressctl.techniques.search._sites import GONE, WHOLE, Site, fill, sites_in, with_chosen
from compressctl.techniques.search.params import ReplacementsParams


def apply(model: TorchModel, params: ReplacementsParams, run: RunContext) -> StageResult:
    """Fit, score, choose, and train what was chosen where the params say so.

    Raises NothingToCompressError where nothing cheaper is known for the network, UsageError for a pattern that matches nothing and for replacements that there are not, StageError where no
    choice keeps the limits.
    """
    split = first_filled(run.data, "train", "calibration")
    if split is None:
        raise UsageError(
            "cheaper layers learn from what the network's own give on samples, and there are none", hint="add data"
        )
    sites = sites_in(model, params)
    facts: dict[str, Any] = {}
    if params.replacements is None:
        fill(sites, model, params, split, run)
        chosen, facts = Choice(sites, model, params, run).found()
    else:
        chosen = _named(params.replacements, sites)
        fill([site for site in sites if chosen[site.name] not in (WHOLE, GONE)], model, params, split, run, chosen)
    smaller = replace(model, body=with_chosen(model.body, sites, chosen), sparse=_left(model.sparse, chosen))
    smaller, recovery = recovered(smaller, params, run)
    facts |= recovery
    inside = {site.name for site in sites if not site.is_block}
    spelled = {name: kind for name, kind in chosen.items() if kind != WHOLE and not (kind == GONE and name in inside)}
    facts |= {"replacements": spelled, **costs.change(model.body, smaller.body, example_inputs(model.signature))}
    kept = params.model_dump(mode="json", exclude_unset=True, exclude={"at_most", "replacements"})
    return StageResult(smaller, facts, pinned={"use": "search.replacements", **kept, "replacements": spelled})


def _named(asked: Mapping[str, str], sites: Sequence[Site]) -> dict[str, str]:
    known = {site.name: site for site in sites}
    for name, kind in asked.items():
        if name not in known:
            raise UsageError(
                f"replacements names {name}, which is no layer that a cheaper one is known for",
                hint=f"those that are: {', '.join(list(known)[:12])}",
            )
        if (kind == GONE) != known[name].is_block:
            raise UsageError(f"replacements: {name} cannot be {kind}: blocks can be {GONE}, and layers another kind")
    return {site.name: asked.get(site.name, WHOLE) for site in sites}


def _left(sparse: Sequence[str], chosen: Mapping[str, str]) -> tuple[str, ...]:
    changed = [name for name, kind in chosen.items() if kind != WHOLE]
    return tuple(name for name in sparse if not any(name.startswith(f"{one}.") for one in changed))
