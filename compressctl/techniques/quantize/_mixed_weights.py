"""quantize.mixed for weights alone: a width for each layer within bytes or bits a weight, written out as quantize.weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressctl.core.errors import NothingToCompressError, StageError
from compressctl.core.model import OnnxModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.index import index
from compressctl.graph.where_weights import layers_hint
from compressctl.numerics.knapsack import Limit, choose
from compressctl.techniques.quantize._sensitivity import SAMPLES, Comparison, Kind, Probe, hessian_trace, probe
from compressctl.techniques.quantize._weight_choices import FLOAT, ChoiceLayer, WeightChoices
from compressctl.techniques.quantize.params import MixedParams, WeightChoice, WeightsParams
from compressctl.techniques.quantize.weights import apply as apply_weights

_TEXTS, _TEXTS_AT_ONCE = 16, 4
"""Of a language model: each has scores for its whole vocabulary at every token."""

Costs = Mapping[ChoiceLayer, Mapping[WeightChoice, float]]


def apply_weights_only(
    model: OnnxModel, params: MixedParams, base: WeightsParams, kind: Kind, run: RunContext
) -> StageResult:
    """Round every layer for every option, measure what each costs alone, choose, and round so. Raises StageError when no choice fits."""
    choices = WeightChoices(model, base, params.choices, run)
    if not choices.layers:
        raise NothingToCompressError(
            "nothing to quantize: no layer has a float constant as its weight", hint=layers_hint(model)
        )
    limit = _most_bits(choices.layers, params)
    costs = _measured(model, choices, params, kind, run)
    chosen = _chosen(choices.layers, costs, limit)
    explicit = choices.explicit({layer: option for layer, option in chosen.items() if not layer.decided})
    result = apply_weights(model, explicit, run)
    taken = sum(layer.bits[option] for layer, option in chosen.items())
    facts = {
        **result.facts,
        "sensitivity": kind,
        "layers": {", ".join(layer.nodes): _why(layer, chosen[layer], costs[layer]) for layer in choices.layers},
        "weight_bytes": -(-taken // 8),
        "weight_bytes_allowed": int(limit / 8),
        "bits_per_weight": round(taken / sum(layer.parameters for layer in choices.layers), 3),
        "written_out": "recipe.pinned.yaml in the run's folder says the same for quantize.weights",
    }
    return StageResult(result.model, facts, {"use": "quantize.weights", **explicit.model_dump(mode="json")})


def _most_bits(layers: Sequence[ChoiceLayer], params: MixedParams) -> float:
    """The smaller of what `size` and `bits_per_weight` allow all layers together."""
    weights = sum(layer.parameters for layer in layers)
    found = []
    if params.size is not None:
        found.append(params.size * 32 * weights if params.size <= 1 else 8 * params.size)
    if params.bits_per_weight is not None:
        found.append(params.bits_per_weight * weights)
    return min(found)


def _measured(model: OnnxModel, choices: WeightChoices, params: MixedParams, kind: Kind, run: RunContext) -> Costs:
    """By layer and option, in the unit of `kind`. Only their order and their sums count."""
    assert run.data is not None
    by_task: Kind = "kl" if run.task in ("classification", "language-model") else "mse"
    measured = by_task if kind == "hessian" else kind
    is_text = run.task == "language-model"
    samples = params.samples or (_TEXTS if is_text else SAMPLES)
    at_once = {"at_once": _TEXTS_AT_ONCE} if is_text else {}
    seen = probe(run.data.split("calibration"), model.signature, samples, measured, **at_once)
    comparison = None if kind == "hessian" else Comparison.of(model, seen, run)
    costs: dict[ChoiceLayer, dict[WeightChoice, float]] = {}
    for done, layer in enumerate(choices.layers):
        if len(layer.bits) == 1:
            costs[layer] = dict.fromkeys(layer.bits, 0.0)
        elif comparison is None:
            costs[layer] = _by_curvature(choices, layer, seen, params.probes, np.random.default_rng([run.seed, done]))
        else:
            costs[layer] = {
                option: 0.0 if option == FLOAT else comparison.cost(choices.alone(layer, option))
                for option in layer.bits
            }
        run.events.progress("measuring sensitivity", done + 1, len(choices.layers))
    return costs


def _by_curvature(
    choices: WeightChoices, layer: ChoiceLayer, seen: Probe, probes: int, rng: np.random.Generator
) -> dict[WeightChoice, float]:
    found, traces = index(choices.body.graph), dict[str, float]()
    costs = dict.fromkeys(layer.bits, 0.0)
    for option in [option for option in layer.bits if option != FLOAT]:
        for weight, error in choices.rounding_error(layer, option).items():
            if weight not in traces:
                values = found.array(weight)
                assert values is not None
                traces[weight] = hessian_trace(choices.body, weight, values, seen, probes, rng)
            costs[option] += 0.5 * traces[weight] * error
    return costs


def _chosen(layers: Sequence[ChoiceLayer], costs: Costs, limit: float) -> dict[ChoiceLayer, WeightChoice]:
    amounts = [list(layer.bits.values()) for layer in layers]
    found = choose([[costs[layer][option] for option in layer.bits] for layer in layers], [Limit(amounts, limit)])
    if found is None:
        least = sum(min(bits) for bits in amounts)
        weights = sum(layer.parameters for layer in layers)
        raise StageError(
            f"no choice of widths is within the budget: the smallest has {least // 8:,} bytes of weights, {least / weights:.2f} bits each, "
            f"where {int(limit / 8):,} bytes are allowed",
            hint="loosen `size` or `bits_per_weight`, or allow fewer bits or larger groups in `bits`",
        )
    return {layer: list(layer.bits)[option] for layer, option in zip(layers, found, strict=True)}


def _why(layer: ChoiceLayer, option: WeightChoice, costs: Mapping[WeightChoice, float]) -> dict[str, Any]:
    facts: dict[str, Any] = {"width": str(option), "bytes": -(-layer.bits[option] // 8)}
    if len(layer.bits) == 1:
        return {**facts, "why": "nothing else is open to it: an override decides, or it cannot be rounded"}
    return {**facts, "cost": {str(one): float(f"{cost:.4g}") for one, cost in costs.items()}}
