"""What a factorize stage found out, for the report."""

from __future__ import annotations

import math
from typing import Any

from compressctl.layers.layer import Layer
from compressctl.techniques.factorize._pieces import Survey
from compressctl.techniques.factorize._ranks import Chosen
from compressctl.techniques.factorize._split import Option, Rank


def facts_of(survey: Survey, chosen: Chosen) -> dict[str, Any]:
    """Every layer that was looked at, in the network's order, and their sums."""
    rows = [_row(layer, chosen) for layer in survey.layers]
    sums = {
        f"{what}_{when}": sum(row[f"{what}_{when}"] for row in rows)
        for what in ("macs", "parameters")
        for when in ("before", "after")
    }
    facts: dict[str, Any] = {"factorized": len(chosen.options), **sums, "layers": rows}
    if survey.whole:
        facts["cannot_be_factorized"] = dict(survey.whole)
    if chosen.tried:
        facts["validated"] = list(chosen.tried)
    return facts


def _row(layer: Layer, chosen: Chosen) -> dict[str, Any]:
    one = chosen.options.get(layer.owner)
    row: dict[str, Any] = {
        "layer": layer.owner,
        "macs_before": layer.macs,
        "macs_after": one.macs if one else layer.macs,
        "parameters_before": layer.parameters,
        "parameters_after": one.parameters if one else layer.parameters,
    }
    if one is not None:
        row |= _of(one)
    if layer.owner in chosen.latency:
        row["latency_ms_before"], row["latency_ms_after"] = chosen.latency[layer.owner]
    if one is None:
        row["left_whole"] = chosen.whole.get(layer.owner, "")
    return row


def _of(one: Option) -> dict[str, Any]:
    """error: relative, of the layer's output (of its weight without whitening)."""
    return {
        "scheme": one.split.scheme,
        "rank": _plain(one.rank),
        "full_rank": _plain(one.split.full_rank),
        "error": math.sqrt(one.error),
    }


def _plain(rank: Rank) -> int | list[int]:
    return rank[0] if len(rank) == 1 else list(rank)
