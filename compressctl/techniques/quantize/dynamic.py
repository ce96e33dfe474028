"""quantize.dynamic: a float ONNX graph gets a plan for 8-bit weights whose products quantize their inputs as they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import OnnxModel
from compressctl.core.patterns import matching
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.carry import carry
from compressctl.graph.index import GraphIndex, index, places
from compressctl.graph.own_copies import rejoined, with_own_copies
from compressctl.graph.simplify import simplify
from compressctl.graph.sites import Kind, Site, is_between_codes
from compressctl.graph.weight_nodes import RECURRENT, WeightNode, find_weighted, names_of, tied_weights, weight_readers
from compressctl.graph.where_weights import where_weights
from compressctl.numerics.int8_weights import Guard, quantize_weight
from compressctl.techniques.quantize._before import quantized_before, with_codes_kept
from compressctl.techniques.quantize._copies import say_copies
from compressctl.techniques.quantize._gate import gated
from compressctl.techniques.quantize._no_kernel import why_no_kernel
from compressctl.techniques.quantize._round_weight import Treatment, round_weight
from compressctl.techniques.quantize._smooth import smoothed
from compressctl.techniques.quantize.params import DynamicOverride, DynamicParams

_READS = "matrix products of two axes, recurrent layers, embeddings and experts, with stored weights"


def apply(model: OnnxModel, params: DynamicParams, run: RunContext) -> StageResult:
    """Plan the weights and hold the gate. Raises NothingToCompressError when no product has a constant weight."""
    carried = carry(model, simplify(model.body), run.events)
    body, divided_in = carried.model, None
    if params.smoothquant_alpha is not None:
        body, divided_in = smoothed(body, model, params.smoothquant_alpha, run)
    candidates = _candidates(body)
    floats = _floats(candidates, params.overrides)
    if params.embeddings == "float":
        floats.update({node.node: "embeddings: float" for node in candidates if node.is_embedding})
    nodes = [node for node in candidates if node.node not in floats]
    copied = with_own_copies(body, _ways(nodes))
    body, found = copied.model, index(copied.model.graph)
    nodes = [replace(node, weight=copied.weights[node.node, node.weight]) for node in nodes]
    guards = params.saturation_guard != "off"
    before = quantized_before(carried, copied, _as_sites(nodes), run.target, run.events, guards=guards)
    nodes = [node for node in nodes if node.node not in before.left]
    if all(node.is_embedding for node in nodes):
        raise NothingToCompressError(
            "nothing to quantize: no plain matrix product or recurrent layer has a float matrix as its weight"
            + (", or overrides keep it float" if candidates else "")
            + carried.why_nothing(),
            hint=f"{why_no_kernel(body, 'quantize.dynamic', run.target.backend)}{where_weights(model.body)}; convolutions run faster with ranges that are fixed beforehand: use "
            "quantize.static",
        )
    new = [node for node in nodes if node.weight not in before.plan]
    weights = {**_weights(found, new, params, run.target), **before.plan}
    weights |= _of_tied_tables(body, nodes, new, weights, params)
    dynamic = frozenset(node.node for node in nodes if node.op in (*_PRODUCTS, "LSTM"))
    names = list(dict.fromkeys(node.node for node in nodes))
    plan = QuantPlan({}, weights, floats, dynamic)

    def with_floats(given_back: Mapping[str, str]) -> OnnxModel:
        floats = {**plan.float_nodes, **given_back}
        made = replace(model, body=rejoined(body, copied, floats), quant=replace(plan, float_nodes=floats))
        return with_codes_kept(made, before.plan)

    facts: dict[str, Any] = {
        "quantized_nodes": len(names),
        "embeddings": sum(node.is_embedding for node in nodes),
        "saturation_guard": _guard(params, run.target),
        **_recurrent_facts(nodes),
        **({} if divided_in is None else {"smoothed_in": divided_in}),
        **say_copies(copied, plan, run.events),
        **carried.facts,
        **before.facts,
    }
    return gated("quantize.dynamic", _READS, with_floats, model, names, facts, run)


_PRODUCTS = ("MatMul", "Gemm")
"""ConvInteger has no kernel worth having: a convolution's input is worth quantizing once, by calibration."""

_EMBEDDING_GROUP = 32


def _floats(nodes: Sequence[WeightNode], overrides: Sequence[DynamicOverride]) -> dict[str, str]:
    """Nodes that overrides keep float. Raises UsageError for a pattern that matches nothing."""
    floats: dict[str, str] = {}
    for override in overrides:
        matched = matching(override.match, nodes, names_of, what="node")
        for node in matched:
            if override.weights == "float":
                floats[node.node] = f"override {override.match!r}"
            else:
                floats.pop(node.node, None)
    return floats


def _candidates(body: onnx.ModelProto) -> list[WeightNode]:
    """Products and lookups that no exporter has put between codes."""
    coded = {node.name for place, found in places(body.graph) for node in place.node if is_between_codes(node, found)}
    return [
        node
        for node in find_weighted(body.graph)
        if ((node.op in _PRODUCTS and not node.stacked) or node.op in ("Gather", *RECURRENT)) and node.node not in coded
    ]


def _as_sites(nodes: Sequence[WeightNode]) -> list[Site]:
    return [
        Site(node.node, node.op, Kind.MULTIPLY, (node.input,), "", node.weight, node.row_axis)
        for node in nodes
        if node.op in _PRODUCTS
    ]


def _recurrent_facts(nodes: Sequence[WeightNode]) -> dict[str, dict[str, str]]:
    """What becomes of each recurrent layer, by name."""
    found = {node.node: _KERNELS[node.op == "LSTM"] for node in nodes if node.op in RECURRENT}
    return {"recurrent_layers": found} if found else {}


_KERNELS = {
    True: "weights in int8, its input quantized at each step where the runtime has a kernel (ONNX Runtime) and it is not slower",
    False: "weights in int8, unpacked when the file is loaded: no runtime multiplies them as integers",
}


def _ways(nodes: Sequence[WeightNode]) -> dict[str, int]:
    """The axis of outputs in each node's weight; an embedding reads whichever codes its table has, by entry where it can choose."""
    ways = {node.node: node.row_axis for node in nodes if node.op != "Gather"}
    products: dict[str, list[int]] = {}
    for node in nodes:
        if node.op != "Gather":
            products.setdefault(node.weight, []).append(node.row_axis)
    for node in nodes:
        if node.op == "Gather":
            options = products.get(node.weight, [node.row_axis])
            ways[node.node] = node.row_axis if node.row_axis in options else options[0]
    return ways


def _weights(
    found: GraphIndex, nodes: Sequence[WeightNode], params: DynamicParams, target: Target
) -> dict[str, TensorQuant]:
    """By weight. A table that a product reads too has the product's codes: one set of numbers for both."""
    weights: dict[str, TensorQuant] = {}
    for name, readers in weight_readers(nodes).items():
        values = found.array(name)
        assert values is not None
        product = next((reader for reader in readers if reader.op != "Gather"), None)
        if product is not None:
            guard = _guard(params, target)
            weights[name] = _product_weight(values, product, params, guard)
        else:
            is_wide = params.embeddings == "int8" or not readers[0].is_embedding
            bits, granularity = (8, "channel" if readers[0].is_embedding else "group") if is_wide else (4, "group")
            treatment = Treatment(bits, "rtn", bits == 8, granularity, _EMBEDDING_GROUP, True)  # type: ignore[arg-type]
            weights[name] = round_weight(values, readers[0], treatment, None, 0.0, act_order=False).quant
    return weights


def _of_tied_tables(
    body: onnx.ModelProto,
    nodes: Sequence[WeightNode],
    new: Sequence[WeightNode],
    weights: Mapping[str, TensorQuant],
    params: DynamicParams,
) -> dict[str, TensorQuant]:
    """By table of an embedding that is a product's matrix as well, stored the other way around: the product's codes, so that a file can hold one
    set of them for both. new: nodes whose weight has no codes from before."""
    if params.embeddings != "int8":
        return {}
    axes = {node.weight: node.row_axis for node in nodes}
    fresh = {node.weight for node in new}
    return {
        table: replace(weights[weight], axis=None if weights[weight].axis is None else axes[table])
        for weight, table in tied_weights(body.graph, nodes).items()
        if weight != table and table in fresh and weights[weight].block is None
    }


def _product_weight(values: np.ndarray, node: WeightNode, params: DynamicParams, guard: Guard) -> TensorQuant:
    """Of a recurrent layer each row of each direction has a scale, as a block of the row's length."""
    if not node.stacked:
        return quantize_weight(values, node.row_axis, per_channel=params.per_channel, guard=guard)
    rows = values.reshape(-1, values.shape[-1])
    quant = quantize_weight(rows, 0, per_channel=params.per_channel, guard=guard)
    if quant.axis is None:
        return quant
    scale, point = (np.asarray(part).reshape(*values.shape[:-1], 1) for part in (quant.scale, quant.zero_point))
    return replace(quant, axis=node.column_axis, block=values.shape[-1], scale=scale, zero_point=point)


def _guard(params: DynamicParams, target: Target) -> Guard:
    if params.saturation_guard == "auto":
        return "pairs" if target.saturates else "off"
    return params.saturation_guard
