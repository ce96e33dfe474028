"""Clusters for each layer under a size: what each number of clusters costs and saves is measured, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressctl.core.errors import StageError
from compressctl.core.feeds import feeds
from compressctl.core.technique import RunContext
from compressctl.layers.layer import Layer
from compressctl.layers.network import Network
from compressctl.numerics.knapsack import Limit, choose
from compressctl.techniques.share._codebooks import Chosen, as_rows
from compressctl.techniques.share._shared import Codebooks, Shared, share
from compressctl.techniques.share.params import KmeansParams

_SAMPLES = 64


def within_budget(
    network: Network,
    layers: Sequence[Layer],
    chosen: Chosen,
    heavy: Mapping[str, np.ndarray],
    params: KmeansParams,
    run: RunContext,
) -> tuple[Chosen, dict[str, Any]]:
    """The layers' codebookss with clusters that fit params.budget, and facts. Clusters of overrides are choices like others."""
    assert params.budget is not None
    outputs = _outputs(network, run) if params.budget.sensitivity == "outputs" else None
    before = outputs() if outputs is not None else np.zeros(1)
    options: dict[str, list[Option]] = {}
    for number, layer in enumerate(layers):
        codebooks = chosen.shared[layer.name]
        options[layer.name] = []
        for clusters in sorted(set(params.budget.choices)):
            rng = np.random.default_rng([run.seed, clusters])
            rows, weight = as_rows(layer.weight), heavy.get(layer.name)
            found = share(rows, Codebooks(clusters, codebooks.granularity), params, weight, rng)
            if outputs is None:
                error = _error(rows, found, weight)
            else:
                network.write(layer.name, found.values().reshape(layer.weight.shape))
                error = float(((outputs() - before) ** 2).mean())
            options[layer.name].append(Option(clusters, _stored_bits(found), error))
        network.write(layer.name, layer.weight)
        run.events.progress("measuring", number + 1, len(layers))
    count = sum(layer.weight.size for layer in layers)
    picked = allocate(options, params.budget.bits * count)
    if picked is None:
        least = sum(min(option.bits for option in some) for some in options.values()) / count
        raise StageError(
            f"budget.bits: {params.budget.bits:g} bits per weight cannot be met: {min(params.budget.choices)} clusters "
            f"take {least:.2f} already",
            hint="allow more bits, add a smaller choice, or use granularity: tensor, which has the smallest codebooks",
        )
    spent = sum(option.bits for option in picked.values()) / count
    shared = {
        name: Codebooks(picked[name].clusters, codebooks.granularity) for name, codebooks in chosen.shared.items()
    }
    facts = {"bits": round(spent, 3), "allowed": params.budget.bits, "sensitivity": params.budget.sensitivity}
    return Chosen(shared, chosen.left), facts


def _error(rows: np.ndarray, found: Shared, weight: np.ndarray | None) -> float:
    return float(((1.0 if weight is None else weight) * (rows - found.values()) ** 2).sum())


def _stored_bits(found: Shared) -> float:
    """Of indices of whole bits, codebooks and scales."""
    scales = 0 if found.scale is None else 32 * found.scale.size
    return found.index_bits * found.codes.size + 32 * found.codebook.size + scales


def _outputs(network: Network, run: RunContext) -> Callable[[], np.ndarray]:
    """Gives the first output for some calibration samples with the weights of the moment, scaled to deviation 1."""
    assert run.data is not None, "the plan gives calibration data to a technique that needs it"
    found = next(feeds(run.data.split("calibration"), network.signature, _SAMPLES), None)
    if found is None:
        raise StageError("budget: the calibration split is empty", hint="use sensitivity: error, or give it samples")
    inputs, name = found.inputs, network.signature.outputs[0].name

    def run_once() -> np.ndarray:
        return np.array(network.outputs(inputs)[name], np.float64)

    spread = max(float(run_once().std()), 1e-30)
    return lambda: run_once() / spread


@dataclass(frozen=True)
class Option:
    """One number of clusters for one layer: bits that it takes, and error in whatever unit, the same for all layers."""

    clusters: int
    bits: float
    error: float


def allocate(options: Mapping[str, Sequence[Option]], budget_bits: float) -> dict[str, Option] | None:
    """An option for each layer, together within the budget, with the least sum of errors; None where nothing fits."""
    costs = [[option.error for option in some] for some in options.values()]
    bits = [[option.bits for option in some] for some in options.values()]
    picked = choose(costs, [Limit(bits, budget_bits)])
    if picked is None:
        return None
    return {name: some[position] for (name, some), position in zip(options.items(), picked, strict=True)}
