"""quantize.qat: a network is trained with weights and activations rounded, then exported with the codes that it learned."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import OnnxModel, TorchModel
from compressctl.core.quant import QuantPlan
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.lower import lower
from compressctl.graph.sites import Site
from compressctl.graph.untouched import Untouched, planned
from compressctl.techniques.quantize._fake_quant import SteadyScales
from compressctl.techniques.quantize._learned_plan import learned_plan
from compressctl.techniques.quantize._qat_layers import QatLayers, find_layers
from compressctl.techniques.quantize._simulate import install, remove
from compressctl.techniques.quantize.params import QatParams, StaticOverride, StaticParams
from compressctl.techniques.quantize.static import make_plan, observe
from compressctl.training.hooks import FreezeNorms
from compressctl.training.loop import Trained, train
from compressctl.training.supervision.objective import objective_of

_AGREE = 1.0
"""Points between simulation and runtime beyond which something other than single roundings differs."""


_READS = "convolutions and matrix products, with stored weights"


def apply(model: TorchModel, params: QatParams, run: RunContext) -> StageResult:
    """Calibrate, train from there, and write what was learned into the exported graph's plan.

    The sites are quantize.static's, so that the file computes in integers what that would; what no layer of the network
    reads (the inputs of additions, the outputs of pooling) keeps calibrated ranges. Raises StageError when there is nothing
    to quantize.
    """
    network = copy.deepcopy(model.body)
    start = calibrated(model, params, run)
    layers = find_layers(network, start.sites, start.plan, params, run.target)
    if not layers.by_path:
        raise NothingToCompressError(
            "nothing to train: no convolution or linear layer of the network is one that is quantized",
            hint="`compressctl inspect` lists the layers; quantize.static needs no training",
        )
    plain = install(network, layers.roundings)
    objective, hooks = objective_of(model, params, run)
    freeze = FreezeNorms(params.freeze_bn_after * params.epochs)
    trained = train(replace(model, body=network), objective, params, run, [freeze, SteadyScales(), *hooks])
    weights: dict[str, Tensor] = {path: layer.weight for path, layer in plain.items()}
    codes, values = layers.codes(weights), layers.values(weights)
    remove(trained.network, plain, values)
    end = calibrated(replace(model, body=trained.network), params, run)
    plan, missed = learned_plan(end.model.body, end.sites, end.plan, layers, codes)
    for node, reason in missed.items():
        run.events.warn(f"{node} is not exported as it was trained: {reason}")
    quantized = replace(end.model, quant=plan)
    facts = {
        **_counted(layers, end.sites, params),
        "not_as_trained": missed,
        "left_in_float": dict(plan.float_nodes),
        **trained.facts,
        **Untouched("quantize.qat", _READS, planned(quantized), plan.float_nodes).facts(quantized, run.events),
        **_agreement(quantized, trained, run),
    }
    return StageResult(quantized, facts)


@dataclass(frozen=True)
class Calibrated:
    """model: the float graph. sites, plan: what quantize.static would do to it."""

    model: OnnxModel
    sites: Sequence[Site]
    plan: QuantPlan


def calibrated(model: TorchModel, params: QatParams, run: RunContext) -> Calibrated:
    """What quantize.static would do to a network as it is."""
    lowered, static = lower(model), _as_static(params)
    seen = observe(lowered, static, run)
    plan = make_plan(seen.body, seen.treated, seen.calibration, static, run.target)
    return Calibrated(replace(lowered, body=seen.body), seen.treated.sites, plan)


def _as_static(params: QatParams) -> StaticParams:
    """The same stage without training."""
    overrides = tuple(
        StaticOverride(match=given.match, weights=_float_or_not(given.weights), ranges=given.ranges)
        for given in params.overrides
    )
    return StaticParams(
        ranges=params.ranges,
        percentile=params.percentile,
        keep_float="overrides",
        bias_correction=False,
        overrides=overrides,
    )


def _float_or_not(weights: str | None) -> Literal["int8", "float"] | None:
    return None if weights is None else "float" if weights == "float" else "int8"


def _counted(layers: QatLayers, sites: Sequence[Site], params: QatParams) -> dict[str, Any]:
    widths = Counter(layer.weights for layer in layers.by_path.values())
    return {"trained_layers": dict(widths), "learned_scales": params.learn_scales, "quantized_nodes": len(sites)}


def _agreement(quantized: OnnxModel, trained: Trained, run: RunContext) -> dict[str, Any]:
    """The validation score that training computed and the one of the exported file in its runtime, and how far apart they are."""
    simulated = trained.facts.get("validation")
    if run.score is None or simulated is None or trained.facts.get("validation_metric") == "loss":
        return {}
    measured = run.score(quantized, "validation")
    if abs(measured - simulated) > _AGREE:
        run.events.warn(
            f"the exported file scores {measured:.2f} on the validation split, where training simulated {simulated:.2f}; "
            "what the network cannot simulate, such as the inputs of additions, is rounded in the file alone"
        )
    return {
        "validation_simulated": simulated,
        "validation_in_runtime": measured,
        "runtime_minus_simulation": measured - simulated,
    }
