"""quantize.static: a float ONNX graph gets a plan for 8-bit weights and activations."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import Model
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.equalize import equalized
from compressctl.graph.index import GraphIndex, attribute, index
from compressctl.graph.simplify import simplify
from compressctl.graph.sites import Kind, Site, activations, find_sites
from compressctl.numerics.affine import asymmetric
from compressctl.numerics.ranges import find_range
from compressctl.techniques.quantize.bias import correctable, corrected_biases, with_biases
from compressctl.techniques.quantize.calibrate import Calibration, calibrate
from compressctl.techniques.quantize.concat import share_scales
from compressctl.techniques.quantize.gate import hold_gate
from compressctl.techniques.quantize.params import Override, RangeMethod, StaticParams
from compressctl.techniques.quantize.smooth import smoothed
from compressctl.techniques.quantize.weights import Guard, fit_bias, quantize_weight


def apply(model: Model, params: StaticParams, run: RunContext) -> StageResult:
    """Calibrate, plan, correct biases, and hold the gate. Raises StageError when nothing can be quantized."""
    assert run.data is not None, "the plan gives calibration data to a technique that needs it"
    body, prepared = _prepared(simplify(model.body), model, params, run)
    treated = treat(find_sites(body.graph), params.overrides)
    if not treated.sites:
        raise StageError(
            "nothing to quantize: no convolution or matrix product with constant weights",
            hint="`compressctl inspect` lists the layers; a graph that is already quantized has none in float",
        )
    calibration = calibrate(
        body,
        model.signature,
        run.data.split("calibration"),
        ranged=activations(treated.sites),
        counted=[tensor for tensor in activations(treated.sites) if treated.method(tensor, params) != "minmax"],
        averaged=[site.inputs[0] for site in treated.sites if correctable(site)] if params.bias_correction else [],
        events=run.events,
    )
    plan = make_plan(body, treated, calibration, params, run.target)
    biases = corrected_biases(body, treated.sites, plan, calibration.means) if params.bias_correction else {}

    def with_floats(given_back: Mapping[str, str]) -> Model:
        """A layer in float keeps its own bias: the correction is for rounded weights."""
        corrected = {node: bias for node, bias in biases.items() if node not in given_back}
        floats = {**plan.float_nodes, **given_back}
        return replace(model, body=with_biases(body, corrected), quant=replace(plan, float_nodes=floats))

    facts: dict[str, Any] = {
        "calibration_samples": calibration.samples,
        "quantized_nodes": len(treated.sites),
        "saturation_guard": _guard(params, run.target),
        **prepared,
    }
    given_back: Mapping[str, str] = {}
    if run.gate is not None:
        given_back, held = hold_gate(with_floats, model, _rounding(treated.sites), run)
        facts.update(held)
    return StageResult(with_floats(given_back), {**facts, "left_in_float": {**plan.float_nodes, **given_back}})


def _prepared(
    body: onnx.ModelProto, model: Model, params: StaticParams, run: RunContext
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The float graph with its channels made alike as far as asked, and what was done, for the report."""
    facts: dict[str, Any] = {}
    if params.equalize:
        body, facts["equalized_pairs"] = equalized(body)
    if params.smooth is not None:
        body, facts["smoothed_in"] = smoothed(body, model, params.smooth, run)
    return body, facts


def _rounding(sites: Sequence[Site]) -> list[str]:
    """Nodes that round something; what moves values only does so with its neighbours."""
    return [site.node for site in sites if site.kind is not Kind.MOVE]


@dataclass(frozen=True)
class Treated:
    """Sites after the overrides. floats: nodes that an override keeps float. methods: ranges by output tensor."""

    sites: tuple[Site, ...]
    floats: Mapping[str, str]
    methods: Mapping[str, RangeMethod]

    def method(self, tensor: str, params: StaticParams) -> RangeMethod:
        return self.methods.get(tensor, params.ranges)


def treat(sites: Sequence[Site], overrides: Sequence[Override]) -> Treated:
    """Apply every override in order. Raises UsageError for a pattern that matches nothing."""
    floats: dict[str, str] = {}
    methods: dict[str, RangeMethod] = {}
    for override in overrides:
        matched = [site for site in sites if matches(site, override.match)]
        if not matched:
            names = ", ".join(name for site in sites[:8] if (name := site.weight or site.node))
            raise UsageError(f"overrides: {override.match!r} matches no node", hint=f"there are: {names}, ...")
        for site in matched:
            if override.weights == "float":
                floats[site.node] = f"override {override.match!r}"
            elif override.weights == "int8":
                floats.pop(site.node, None)
            if override.ranges is not None:
                methods[site.output] = override.ranges
    return Treated(tuple(site for site in sites if site.node not in floats), floats, methods)


def matches(site: Site, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (site.node, site.op, site.weight, site.output) if name)


def make_plan(
    model: onnx.ModelProto, treated: Treated, calibration: Calibration, params: StaticParams, target: Target
) -> QuantPlan:
    """Every tensor's quantization from what calibration saw."""
    tensors = share_scales(_plan_activations(treated, calibration, params), treated.sites)
    weights: dict[str, TensorQuant] = {}
    looked_up = index(model.graph)
    for site in treated.sites:
        if site.weight is None:
            continue
        values = looked_up.array(site.weight)
        assert values is not None
        guard: Guard = "off" if _is_depthwise(site, looked_up, model) else _guard(params, target)
        quant = weights.get(site.weight) or quantize_weight(
            values, site.weight_axis, per_channel=params.per_channel, guard=guard
        )
        bias = looked_up.array(site.bias) if site.bias else None
        weights[site.weight] = quant if bias is None else fit_bias(quant, tensors[site.inputs[0]], bias)
    return QuantPlan(tensors, weights, dict(treated.floats))


def _plan_activations(treated: Treated, calibration: Calibration, params: StaticParams) -> dict[str, TensorQuant]:
    made_by = {site.output: site for site in treated.sites}
    plan: dict[str, TensorQuant] = {}
    for tensor in activations(treated.sites):
        site = made_by.get(tensor)
        if site is not None and site.kind is Kind.MOVE:
            plan[tensor] = plan[site.inputs[0]]
            continue
        low, high = find_range(calibration.histograms[tensor], treated.method(tensor, params), params.percentile)
        if site is not None:
            low, high = max(low, site.clip[0]), min(high, site.clip[1])
        if low >= 0.0 >= high:
            # Never anything but zero on the calibration data: any scale is as good, and a tiny one would overflow biases.
            low, high = 0.0, 1.0
        scale, zero_point = asymmetric(low, high)
        plan[tensor] = TensorQuant("uint8", np.asarray(scale), np.asarray(zero_point, dtype=np.uint8))
    return plan


def _guard(params: StaticParams, target: Target) -> Guard:
    if params.saturation_guard == "auto":
        return "pairs" if target.saturates else "off"
    return params.saturation_guard


def _is_depthwise(site: Site, looked_up: GraphIndex, model: onnx.ModelProto) -> bool:
    """One input channel per output channel: kernels multiply those in 32 bits, which nothing overflows."""
    weight = looked_up.initializers[site.weight or ""]
    node = next(node for node in model.graph.node if node.name == site.node)
    return site.op == "Conv" and weight.dims[1] == 1 and attribute(node, "group", 1) == weight.dims[0]
