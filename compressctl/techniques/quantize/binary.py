"""quantize.binary: a network is trained with weights of two or three values per output channel."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import TorchModel
from compressctl.core.patterns import matching
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.torch_outputs import zero_inputs
from compressctl.graph.untouched import Untouched
from compressctl.techniques.quantize._binary_ternary import BinaryWeight, EdeSchedule, TernaryWeight
from compressctl.techniques.quantize._fake_quant import SteadyScales, WeightQuantizer, fitted_scale
from compressctl.techniques.quantize._qat_layers import LIMITS
from compressctl.techniques.quantize._simulate import Layer, Rounding, WeightRounding, install, layers_of, remove
from compressctl.techniques.quantize.params import BinaryParams
from compressctl.training.hooks import FreezeNorms
from compressctl.training.loop import train
from compressctl.training.supervision.objective import objective_of


def apply(model: TorchModel, params: BinaryParams, run: RunContext) -> StageResult:
    """The same network with weights of few values, still a float one: what follows may round activations, and the exported
    file's weights can be packed.

    Raises UsageError for a pattern that matches nothing, NothingToCompressError when no layer is left.
    """
    network = copy.deepcopy(model.body)
    called = _in_order(network, model)
    ends = (called[0], called[-1]) if called else ()
    roundings = _roundings(layers_of(network), called, ends, params)
    few = [path for path, rounding in roundings.items() if path not in ends]
    if not few:
        raise NothingToCompressError(
            f"no layer is left to make {params.levels}: between the first and the last one there is none",
            hint="`exclude` may name too much; quantize.weights makes the weights of small networks small",
        )
    _warn_of_lost_zeros(model, params, few, run)
    curves = [rounding.weight for rounding in roundings.values() if isinstance(rounding.weight, BinaryWeight)]
    steepen = [EdeSchedule(curves, params.epochs)] if params.estimator == "ede" else []
    plain = install(network, roundings)
    objective, hooks = objective_of(model, params, run)
    freeze = FreezeNorms(params.freeze_bn_after * params.epochs)
    trained = train(replace(model, body=network), objective, params, run, [freeze, SteadyScales(), *steepen, *hooks])
    values = {path: rounding.weight.values(plain[path].weight) for path, rounding in roundings.items()}
    remove(trained.network, plain, values)
    result = replace(model, body=trained.network)
    treated = {f"{path}.weight" for path in roundings}
    left = Untouched("quantize.binary", "convolutions and linear layers", treated, _reasons(called, roundings))
    facts = {**_facts(values, few, layers_of(network), params), **left.facts(result, run.events), **trained.facts}
    return StageResult(result, facts)


def _reasons(called: Sequence[str], roundings: Mapping[str, Rounding]) -> dict[str, str]:
    ends = dict.fromkeys((called[0], called[-1]), "the first or the last layer, which first_and_last keeps")
    return {path: ends.get(path, "excluded") for path in called if path not in roundings}


def _roundings(
    layers: Mapping[str, Layer], called: Sequence[str], ends: Collection[str], params: BinaryParams
) -> dict[str, Rounding]:
    """How each layer's weight becomes what is exported, by path; layers that keep theirs are not in it."""
    roundings = {}
    for path in _wanted(called, params.exclude):
        if path not in ends:
            roundings[path] = Rounding(_few_levels(layers[path], params))
        elif params.first_and_last == "int8":
            roundings[path] = Rounding(WeightQuantizer(LIMITS["int8"]))
    return roundings


def _in_order(network: nn.Module, model: TorchModel) -> list[str]:
    """Paths of the layers in the order in which they are called first."""
    called: dict[str, None] = {}
    with ExitStack() as hooks, torch.no_grad():
        for path, layer in layers_of(network).items():
            hooks.enter_context(layer.register_forward_pre_hook(lambda *_, path=path: called.setdefault(path)))
        network(*zero_inputs(model.signature.inputs))
    return list(called)


def _wanted(called: Sequence[str], exclude: Sequence[str]) -> list[str]:
    excluded = {path for pattern in exclude for path in matching(pattern, called, lambda path: (path,), key="exclude")}
    return [path for path in called if path not in excluded]


def _few_levels(layer: Layer, params: BinaryParams) -> WeightRounding:
    if params.levels == "binary":
        return BinaryWeight(is_balanced=params.balance, is_estimated=params.estimator == "ede")
    if params.threshold == "learned":
        return WeightQuantizer(LIMITS["int2"], fitted_scale(layer.weight, LIMITS["int2"]))
    return TernaryWeight()


def _warn_of_lost_zeros(model: TorchModel, params: BinaryParams, few: Sequence[str], run: RunContext) -> None:
    lost = [path for path in few if f"{path}.weight" in model.sparse]
    if lost and params.levels == "binary":
        run.events.warn(
            f"{len(lost)} layers lose the zeros that pruning gave them: a binary weight is never 0; `levels: ternary` keeps them"
        )


def _facts(
    values: Mapping[str, Tensor], few: Sequence[str], layers: Mapping[str, Layer], params: BinaryParams
) -> dict[str, Any]:
    bits = 1 if params.levels == "binary" else 2
    kept = {path: layer.weight.numel() for path, layer in layers.items() if path not in values}
    return {
        "layers": {params.levels: len(few), "int8": len(values) - len(few), "float": len(kept)},
        "weights": {
            params.levels: sum(values[path].numel() for path in few),
            "int8": sum(found.numel() for path, found in values.items() if path not in few),
            "float": sum(kept.values()),
        },
        "bits_per_weight": bits,
        "stored_as": "float: an export that packs weights, or quantize.static behind this stage, makes the file small",
    }
