"""quantize.static: a float ONNX graph gets a plan for 8-bit weights and activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from compressctl.core.errors import NothingToCompressError, StageError
from compressctl.core.model import OnnxModel
from compressctl.core.patterns import matching
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.carry import carry
from compressctl.graph.equalize import equalized
from compressctl.graph.index import index
from compressctl.graph.own_copies import Copied, rejoined, with_own_copies
from compressctl.graph.replace_weights import with_own_weights, with_weights
from compressctl.graph.requantize import readers
from compressctl.graph.simplify import simplify
from compressctl.graph.sites import Kind, Site, activations, find_sites, is_depthwise
from compressctl.graph.swish import swish_inputs
from compressctl.graph.weight_nodes import find_weighted
from compressctl.graph.where_weights import layers_hint
from compressctl.numerics.affine import asymmetric
from compressctl.numerics.int8_weights import Guard, PairsSeen, fit_bias, narrow_weight, quantize_weight
from compressctl.numerics.ranges import find_range, swish_low
from compressctl.techniques.quantize._as_overrides import ambiguous, as_overrides
from compressctl.techniques.quantize._before import quantized_before, with_codes_kept
from compressctl.techniques.quantize._bias import correctable, corrected_biases, with_biases
from compressctl.techniques.quantize._calibrate import Calibration, calibrate
from compressctl.techniques.quantize._concat import share_scales, too_narrow
from compressctl.techniques.quantize._copies import say_copies
from compressctl.techniques.quantize._decoding import decoding
from compressctl.techniques.quantize._enough import judge_samples
from compressctl.techniques.quantize._gate import gated
from compressctl.techniques.quantize._layerwise import Learning, Network, Settled, settle
from compressctl.techniques.quantize._no_kernel import why_no_kernel
from compressctl.techniques.quantize._noise import OutputNoise, allowance, macs_of, outlying
from compressctl.techniques.quantize._pairs import positions_of, ways_of
from compressctl.techniques.quantize._placed import Placed, placed
from compressctl.techniques.quantize._smooth import smoothed
from compressctl.techniques.quantize.params import RangeMethod, StaticParams

_READS = "convolutions and matrix products, with stored weights"


def apply(model: OnnxModel, params: StaticParams, run: RunContext) -> StageResult:
    """Calibrate, plan, round, correct biases, place by the clock, and hold the gate. Raises NothingToCompressError when nothing can be quantized."""
    assert run.data is not None, "the plan gives calibration data to a technique that needs it"
    seen = observe(model, params, run)
    body, treated, calibration = seen.body, seen.treated, seen.calibration
    plan = make_plan(body, treated, calibration, params, run.target, seen.fixed)
    if params.keep_float == "auto":
        treated, plan = _spared(seen, plan, model, params, run)
    network = Network(body, model.signature, run.data.split("calibration"), plan, frozenset(seen.fixed))
    settled = _settle(network, treated, params, run)
    if _corrects_at_once(params):
        settled.biases = corrected_biases(body, treated.sites, plan, calibration.means)
    rounded = with_weights(body, settled.weights)

    def with_floats(given_back: Mapping[str, str]) -> OnnxModel:
        """A layer in float keeps its own weight and bias: rounding and correction are for integers."""
        own = [(site.node, site.weight) for site in treated.sites if site.node in given_back and site.weight]
        corrected = {node: bias for node, bias in settled.biases.items() if node not in given_back}
        floats = {**plan.float_nodes, **given_back}
        restored = with_own_weights(rounded, body, own) if settled.weights else body
        restored = rejoined(restored, seen.copied, floats)
        made = replace(model, body=with_biases(restored, corrected), quant=replace(plan, float_nodes=floats))
        return with_codes_kept(made, seen.fixed)

    by_clock = _placed(body, treated, plan, with_floats, params, run)
    left = [site for site in treated.sites if site.node not in by_clock.floats]
    facts: dict[str, Any] = {
        "calibration_samples": calibration.samples,
        "quantized_nodes": len(left),
        "saturation_guard": _guard(params, run.target),
        **seen.prepared,
        **_rounding_facts(body, treated, settled),
        **say_copies(seen.copied, plan, run.events),
        **by_clock.facts,
    }

    def with_more_floats(given_back: Mapping[str, str]) -> OnnxModel:
        return with_floats({**by_clock.floats, **given_back})

    result = gated("quantize.static", _READS, with_more_floats, model, rounding_nodes(left), facts, run)
    if params.placement == "all":
        return result
    assert isinstance(result.model, OnnxModel)
    return replace(result, pinned=_pinned(result.model, seen, params, run))


def _placed(
    body: onnx.ModelProto,
    treated: Treated,
    plan: QuantPlan,
    rebuild: Callable[[Mapping[str, str]], OnnxModel],
    params: StaticParams,
    run: RunContext,
) -> Placed:
    """What the clock puts in float. Nodes whose width an override says are not up for it."""
    if params.placement == "all":
        return Placed()
    sites = [site for site in treated.sites if site.node not in treated.decided]
    return placed(body, sites, plan.float_nodes, rebuild, params.placement_time, run)


def _pinned(model: OnnxModel, seen: Seen, params: StaticParams, run: RunContext) -> dict[str, Any] | None:
    """The stage as a recipe says it that searches nothing: an override for each layer in float. None where a name is not its node's alone."""
    assert model.quant is not None
    sites = find_sites(seen.body.graph)
    floats = [site.node for site in sites if site.node in model.quant.float_nodes]
    if unclear := ambiguous(floats, sites):
        message = f"the placement is not written out as a recipe: {', '.join(unclear[:4])} names more than one thing in this graph"
        run.events.emit("note", message=message)
        return None
    explicit = {
        "ranges": seen.treated.ranges,
        "placement": "all",
        "keep_float": "overrides",
        "overrides": (*params.overrides, *as_overrides(dict.fromkeys(floats, "float"))),
    }
    written = params.model_copy(update=explicit).model_dump(mode="json")
    return {"use": "quantize.static", **{key: value for key, value in written.items() if key != "placement_time"}}


def _spared(
    seen: Seen, plan: QuantPlan, model: OnnxModel, params: StaticParams, run: RunContext
) -> tuple[Treated, QuantPlan]:
    """With float where a shared scale would lose a signal, and in layers that rounding hurts far more than their work is worth."""
    assert run.data is not None
    own, allowed = _plan_activations(seen.treated, seen.calibration, params), allowance(params.float_macs)
    treated = seen.treated.left_in_float(too_narrow(own, seen.treated.sites, seen.macs, allowed.most))
    plan = replace(plan, float_nodes=dict(treated.floats))
    # Weights of 4 bits round more because the recipe says so.
    narrow = {site.weight for site in treated.sites if treated.bits.get(site.node) == 4}
    weights = {name: quant for name, quant in plan.weights.items() if name not in narrow}
    noise = OutputNoise(seen.body, model.signature, run.data.split("calibration"), weights)
    layers = [site for site in treated.sites if site.weight and site.node not in treated.decided]
    try:
        treated = treated.left_in_float(outlying(noise, plan, layers, seen.macs, allowed, run.events))
    except StageError as error:  # as of operators that are newer than the runtime that simulates
        message = f"which layers rounding hurts most is not measured: {error.message}"
        run.events.emit("note", message=message)
    return treated, replace(plan, float_nodes=dict(treated.floats))


@dataclass(frozen=True)
class Seen:
    """The float graph in the shape that is quantized, its sites, and what calibration saw. prepared: facts, for the report.

    copied: the weights that sites read in different ways. fixed: entries of the plan for weights that were quantized before.
    macs: of the sites with weights, by node.
    """

    body: onnx.ModelProto
    treated: Treated
    calibration: Calibration
    prepared: Mapping[str, Any]
    copied: Copied
    fixed: Mapping[str, TensorQuant]
    macs: Mapping[str, int]


def observe(model: OnnxModel, params: StaticParams, run: RunContext) -> Seen:
    """Everything that a plan is made from. Raises NothingToCompressError when nothing can be quantized."""
    assert run.data is not None
    carried = carry(model, simplify(model.body), run.events)
    body, prepared = _prepared(carried.model, model, params, run)
    treated = treat(find_sites(body.graph), params)
    copied = _with_own_copies(body, treated)
    body, treated = copied.model, _reading(treated, copied)
    guards = params.saturation_guard != "off"
    before = quantized_before(carried, copied, treated.sites, run.target, run.events, guards=guards)
    treated = replace(treated, sites=tuple(site for site in treated.sites if site.node not in before.left))
    if not treated.sites:
        raise NothingToCompressError(
            "nothing to quantize: no convolution or plain matrix product has a float32 constant of the main graph as its weight"
            + carried.why_nothing(),
            hint=f"{why_no_kernel(body, 'quantize.static', run.target.backend)}{layers_hint(model)}, and what is quantized already",
        )
    prepared = {**carried.facts, **before.facts, **prepared}
    split = run.data.split("calibration")
    macs = macs_of(body, model.signature, split, treated.sites)
    decoded = decoding(body.graph, treated.sites, macs) if params.keep_float == "auto" else {}
    treated = replace(
        treated.left_in_float(decoded),
        ranges=_ranges(params, is_decoded=bool(decoded)),
        swished=frozenset(swish_inputs(body.graph)),
    )
    calibration = calibrate(
        body,
        model.signature,
        split,
        ranged=activations(treated.sites),
        counted=[tensor for tensor in activations(treated.sites) if treated.method(tensor) != "minmax"],
        averaged=[site.inputs[0] for site in treated.sites if correctable(site)] if _corrects_at_once(params) else [],
        events=run.events,
        paired=ways_of(body, treated.sites).values() if _guard(params, run.target) == "calibrated" else (),
    )
    exact = [tensor for tensor in calibration.histograms if treated.method(tensor) == "minmax"]
    prepared.update(judge_samples(calibration, exact, params.percentile, run.events))
    return Seen(body, treated, calibration, prepared, copied, before.plan, macs)


def _ranges(params: StaticParams, *, is_decoded: bool) -> RangeMethod:
    if params.ranges != "auto":
        return params.ranges
    return "minmax" if is_decoded else "percentile"


def _with_own_copies(body: onnx.ModelProto, treated: Treated) -> Copied:
    """A weight for each axis of outputs and each width; an embedding reads whichever codes its table has."""
    ways = {site.node: (site.weight_axis, treated.bits.get(site.node, 8)) for site in treated.sites if site.weight}
    by_weight = {weight: [ways[site.node] for site in sites] for weight, sites in readers(treated.sites).items()}
    for node in find_weighted(body.graph):
        if node.op == "Gather" and node.weight in by_weight:
            options = by_weight[node.weight]
            ways[node.node] = next((way for way in options if way[0] == node.row_axis), options[0])
    return with_own_copies(body, ways)


def _reading(treated: Treated, copied: Copied) -> Treated:
    """With the weights that the sites read now."""
    sites = [
        replace(site, weight=copied.weights.get((site.node, site.weight or ""), site.weight)) for site in treated.sites
    ]
    return replace(treated, sites=tuple(sites))


def _prepared(
    body: onnx.ModelProto, model: OnnxModel, params: StaticParams, run: RunContext
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The float graph with its channels made alike as far as asked, and what was done, for the report."""
    facts: dict[str, Any] = {}
    if params.equalize:
        body, facts["equalized_pairs"] = equalized(body)
    if params.smoothquant_alpha is not None:
        body, facts["smoothed_in"] = smoothed(body, model, params.smoothquant_alpha, run)
    return body, facts


def _corrects_at_once(params: StaticParams) -> bool:
    return params.bias_correction is True and params.rounding == "nearest"


def _settle(network: Network, treated: Treated, params: StaticParams, run: RunContext) -> Settled:
    """What needs the layers one after the other; nothing where neither the rounding nor the biases do."""
    learning = Learning(params.rounding_steps, run.seed) if params.rounding == "adaround" else None
    corrects_bias = params.bias_correction is not False and not _corrects_at_once(params)
    if learning is None and not corrects_bias:
        return Settled()
    return settle(network, treated.sites, learning, run.events, corrects_bias=corrects_bias)


def _rounding_facts(body: onnx.ModelProto, treated: Treated, settled: Settled) -> dict[str, Any]:
    """How many weights have 4 bits, and what learning their rounding brought, for the report."""
    facts: dict[str, Any] = {}
    narrow = {site.weight for site in treated.sites if site.weight and treated.bits.get(site.node) == 4}
    if narrow:
        sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in body.graph.initializer}
        facts["weights_in_4_bits"] = sum(sizes[name] for name in narrow)
        facts["stored_wider"] = (
            "4-bit codes take a byte each in a plain file, since integer kernels read bytes; `storage: compressed` halves that"
        )
    if settled.errors:
        facts["relative_output_error"] = {
            node: {"nearest": round(before, 6), "adaround": round(after, 6)}
            for node, (before, after) in settled.errors.items()
        }
    return facts


def rounding_nodes(sites: Sequence[Site]) -> list[str]:
    """Nodes that round something; what moves values only does so with its neighbours."""
    return [site.node for site in sites if site.kind is not Kind.MOVE]


@dataclass(frozen=True)
class Treated:
    """Sites after the overrides. floats: nodes that stay float, with the reason. methods: ranges by output tensor.

    bits: of the weight, by node. decided: nodes whose width an override says. ranges: of the tensors without a method of their own.
    swished: tensors that only x * sigmoid(x) reads.
    """

    sites: tuple[Site, ...]
    floats: Mapping[str, str]
    methods: Mapping[str, RangeMethod]
    bits: Mapping[str, int]
    decided: frozenset[str] = frozenset()
    ranges: RangeMethod = "percentile"
    swished: frozenset[str] = frozenset()

    def method(self, tensor: str) -> RangeMethod:
        return self.methods.get(tensor, self.ranges)

    def left_in_float(self, nodes: Mapping[str, str]) -> Treated:
        """Without these nodes, each with the reason, but for those whose width an override says."""
        floats = {node: reason for node, reason in nodes.items() if node not in self.decided}
        sites = tuple(site for site in self.sites if site.node not in floats)
        return replace(self, sites=sites, floats={**self.floats, **floats})


def treat(sites: Sequence[Site], params: StaticParams) -> Treated:
    """Apply every override in order. Raises UsageError for a pattern that matches nothing."""
    floats: dict[str, str] = {}
    methods: dict[str, RangeMethod] = {}
    bits = {site.node: BITS[params.weights] for site in sites if site.weight}
    decided: set[str] = set()
    for override in params.overrides:
        matched = matching(override.match, sites, names_of, what="node")
        decided.update(site.node for site in matched if override.weights is not None)
        for site in matched:
            if override.weights == "float":
                floats[site.node] = f"override {override.match!r}"
            elif override.weights is not None:
                floats.pop(site.node, None)
                bits[site.node] = BITS[override.weights]
            if override.ranges is not None:
                methods[site.output] = override.ranges
    return Treated(tuple(site for site in sites if site.node not in floats), floats, methods, bits, frozenset(decided))


BITS = {"int8": 8, "int4": 4}


def names_of(site: Site) -> tuple[str | None, ...]:
    """What a pattern may call it."""
    return site.weight, site.node, site.op, site.output


def make_plan(
    model: onnx.ModelProto,
    treated: Treated,
    calibration: Calibration,
    params: StaticParams,
    target: Target,
    fixed: Mapping[str, TensorQuant] | None = None,
) -> QuantPlan:
    """Every tensor's quantization from what calibration saw. fixed: weights whose quantization is given."""
    tensors = share_scales(_plan_activations(treated, calibration, params), treated.sites, target.backend)
    weights = dict(fixed or {})
    looked_up = index(model.graph)
    # A weight that a depthwise convolution shares with another layer must hold in both.
    guarded = {
        site.weight
        for site in treated.sites
        if site.weight and not is_depthwise(site, looked_up.initializers[site.weight].dims, model.graph)
    }
    seen = _pairs_seen(model, treated.sites, calibration, tensors)
    for site in treated.sites:
        if site.weight is None:
            continue
        values = looked_up.array(site.weight)
        assert values is not None
        guard: Guard = _guard(params, target) if site.weight in guarded else "off"
        bits, pairs = treated.bits.get(site.node, 8), seen.get(site.weight)
        quant = weights.get(site.weight) or _weight_quant(values, site, bits, params, guard, pairs)
        bias = looked_up.array(site.bias) if site.bias else None
        weights[site.weight] = quant if bias is None else fit_bias(quant, tensors[site.inputs[0]], bias)
    return QuantPlan(tensors, weights, dict(treated.floats))


def _pairs_seen(
    model: onnx.ModelProto, sites: Sequence[Site], calibration: Calibration, tensors: Mapping[str, TensorQuant]
) -> dict[str, PairsSeen]:
    """By weight, in codes; none of a weight of which a reader was not watched."""
    if not calibration.pairs:
        return {}
    found: dict[str, PairsSeen] = {}
    ways, shapes = ways_of(model, sites), index(model.graph).initializers
    for weight, of_weight in readers(sites).items():
        known = [(ways.get(site.node), tensors.get(site.inputs[0])) for site in of_weight]
        parts = [
            calibration.pairs[way].codes(quant, positions_of(shapes[weight].dims))
            for way, quant in known
            if way in calibration.pairs and quant is not None
        ]
        if len(parts) == len(known) and len({part.alone.shape for part in parts}) == 1:
            alone = np.max([part.alone for part in parts], axis=0)
            found[weight] = PairsSeen(alone, np.max([part.together for part in parts], axis=0))
    return found


def _weight_quant(
    values: np.ndarray, site: Site, bits: int, params: StaticParams, guard: Guard, seen: PairsSeen | None
) -> TensorQuant:
    if bits < 8:
        return narrow_weight(values, site.weight_axis, bits, per_channel=params.per_channel)
    goes_up = params.rounding == "adaround"
    return quantize_weight(
        values, site.weight_axis, per_channel=params.per_channel, guard=guard, goes_up=goes_up, seen=seen
    )


def _plan_activations(treated: Treated, calibration: Calibration, params: StaticParams) -> dict[str, TensorQuant]:
    made_by = {site.output: site for site in treated.sites}
    plan: dict[str, TensorQuant] = {}
    for tensor in activations(treated.sites):
        site = made_by.get(tensor)
        if site is not None and site.kind is Kind.MOVE:
            plan[tensor] = plan[site.inputs[0]]
            continue
        low, high = find_range(calibration.histograms[tensor], treated.method(tensor), params.percentile)
        if site is not None:
            low, high = max(low, site.clip[0]), min(high, site.clip[1])
        if tensor in treated.swished:
            low = max(low, swish_low(high))
        if low >= 0.0 >= high:
            # Never anything but zero on the calibration data: any scale is as good, and a tiny one would overflow biases.
            low, high = 0.0, 1.0
        scale, zero_point = asymmetric(low, high)
        plan[tensor] = TensorQuant("uint8", np.asarray(scale), np.asarray(zero_point, dtype=np.uint8))
    return plan


def _guard(params: StaticParams, target: Target) -> Guard:
    if params.saturation_guard == "auto":
        return "calibrated" if target.saturates else "off"
    return params.saturation_guard
