"""quantize.weights: a float ONNX graph gets a plan for weights of few bits; activations stay float."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import OnnxModel
from compressctl.core.patterns import matching
from compressctl.core.quant import QuantPlan
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.carry import carry
from compressctl.graph.index import index
from compressctl.graph.own_copies import Copied, read_elsewhere, rejoined, with_own_copies
from compressctl.graph.replace_weights import with_own_weights, with_weights
from compressctl.graph.scale_inputs import scale_inputs
from compressctl.graph.simplify import simplify
from compressctl.graph.tensors import kept
from compressctl.graph.weight_nodes import RECURRENT, WeightNode, find_weighted, names_of, tied_weights, weight_readers
from compressctl.graph.where_weights import layers_hint
from compressctl.numerics.awq import awq_scale
from compressctl.techniques.quantize._copies import say_copies
from compressctl.techniques.quantize._gate import gated
from compressctl.techniques.quantize._moments import Moments, Walk
from compressctl.techniques.quantize._round_weight import Rounded, Treatment, round_weight, rounded_values
from compressctl.techniques.quantize.params import WeightMethod, WeightOverride, WeightsParams

_MOMENTS_BYTES = 512 * 1024**2
"""Of second moments held at once; a layer with 4,096 inputs takes 128 MiB."""


_READS = "convolutions, matrix products, recurrent layers, embeddings and experts, with stored weights"


def apply(model: OnnxModel, params: WeightsParams, run: RunContext) -> StageResult:
    """Round every weight, plan its storage, and hold the gate. Raises StageError when there is nothing to round."""
    carried = carry(model, simplify(model.body), run.events)
    treated, copied = treat(carried.model, params, carried.weights, signed=takes_signed_scales(params, run))
    body = copied.model
    if not treated.weights:
        raise NothingToCompressError(
            "nothing to quantize: no plain matrix product, convolution, recurrent layer or embedding has a float constant as its weight"
            + (", or overrides keep it float" if treated.floats else "")
            + carried.why_nothing(),
            hint=layers_hint(model),
        )
    scaled, places = _with_awq_scales(body, model, treated, run)
    done = round_all(scaled, model, treated, params, run)
    rounded = with_weights(scaled, {name: part.values for name, part in done.items()})
    new = {name: part.quant for name, part in done.items()}
    plan = QuantPlan({}, {**carried.weights, **new}, treated.floats)
    readers = weight_readers(treated.nodes)

    def with_floats(given_back: Mapping[str, str]) -> OnnxModel:
        """A node in float reads the weight from before rounding, and shares it no longer."""
        floats = {**plan.float_nodes, **given_back}
        own = [(node.node, node.weight) for node in treated.nodes if node.node in given_back]
        restored = rejoined(with_own_weights(rounded, scaled, own), copied, floats)
        return replace(model, body=restored, quant=replace(plan, float_nodes=floats))

    facts = {**_facts(done, treated, readers, places), **say_copies(copied, plan, run.events), **carried.facts}
    names = list(dict.fromkeys(node.node for node in treated.nodes))
    reason = "gate: its rounded weights cost too much accuracy"
    return gated("quantize.weights", _READS, with_floats, model, names, facts, run, reason)


@dataclass(frozen=True)
class Treated:
    """nodes: those whose weight is rounded. weights: how, by weight. floats: nodes that stay float, with the reason.

    tied: the embedding's table by the weight that is the same matrix.
    """

    nodes: tuple[WeightNode, ...]
    weights: Mapping[str, Treatment]
    floats: Mapping[str, str]
    tied: Mapping[str, str]


def takes_signed_scales(params: WeightsParams, run: RunContext) -> bool:
    """Whether the target's runtime takes scales below zero, as ONNX Runtime and OpenVINO do. TensorRT asks for positive ones
    (documentation of IDequantizeLayer)."""
    return params.is_symmetric_somewhere and run.target.backend != "tensorrt"


def treat(
    body: onnx.ModelProto, params: WeightsParams, before: Collection[str] = (), *, signed: bool = False
) -> tuple[Treated, Copied]:
    """Apply every override in order, and give a weight that is read as a matrix and as its transpose a copy for each.

    before: weights that are quantized already, which are left alone. signed: symmetric scales may be below zero. Raises UsageError for a pattern that matches nothing.
    """
    nodes = [node for node in find_weighted(body.graph) if node.weight not in before]
    plain = Treatment(
        params.bits,
        params.method,
        params.symmetric,
        params.granularity,
        params.group_size,
        params.clip_search,
        signed=signed,
    )
    by_use: dict[tuple[str, bool, int], Treatment] = {_use(node): plain for node in nodes}
    floats: dict[str, str] = {}
    for override in params.overrides:
        matched = matching(override.match, nodes, names_of, what="node")
        for node in matched:
            if override.bits == "float":
                floats[node.node] = f"override {override.match!r}"
            else:
                floats.pop(node.node, None) if override.bits else None
                by_use[_use(node)] = _overridden(by_use[_use(node)], override)
    elsewhere = read_elsewhere(body.graph, {node.node for node in nodes})
    floats.update(
        {
            node.node: "something else reads its weight in float, so that codes would only add to the file"
            for node in nodes
            if node.weight in elsewhere and node.node not in floats
        }
    )
    kept = [node for node in nodes if node.node not in floats]
    copied = with_own_copies(body, {node.node: (node.transposed, node.stacked) for node in kept})
    own = [replace(node, weight=copied.weights[node.node, node.weight]) for node in kept]
    treatments = {after.weight: by_use[_use(before)] for before, after in zip(kept, own, strict=True)}
    tied = tied_weights(copied.model.graph, own)
    for weight, table in tied.items():
        # One matrix, so one set of codes, which the file holds once. Several readers have inputs of their own: making
        # errors good for one would make them worse for another.
        treatments[weight] = treatments[table] = replace(treatments[table], method=_without_data(treatments[table]))
    return Treated(tuple(own), treatments, floats, tied), copied


def _use(node: WeightNode) -> tuple[str, bool, int]:
    return node.weight, node.transposed, node.stacked


def _without_data(treatment: Treatment) -> WeightMethod:
    return "rtn" if treatment.method in ("gptq", "awq") else treatment.method


def _overridden(treatment: Treatment, override: WeightOverride) -> Treatment:
    said = {
        name: getattr(override, name)
        for name in ("bits", "method", "symmetric", "granularity", "group_size")
        if getattr(override, name) is not None
    }
    return replace(treatment, **said, splits_convolutions=override.granularity == "group")


def _with_awq_scales(
    body: onnx.ModelProto, model: OnnxModel, treated: Treated, run: RunContext
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The graph with activation-aware scales, and by tensor where each scale's division went."""
    nodes = [
        node
        for node in treated.nodes
        if treated.weights[node.weight].method == "awq" and node.op in _PRODUCTS and node.is_watched
    ]
    if not nodes:
        return body, {}
    found, scales, walk = index(body.graph), {}, _walk(model, run)
    for part in _within_memory(nodes, body):
        moments = walk.moments(body, part)
        for tensor in dict.fromkeys(node.input for node in part):
            readers = [node for node in part if node.input == tensor]
            matrices = [_matrix(found.array(node.weight), node) for node in readers]
            seen = moments[readers[0].node]
            places = [partial(rounded_values, treatment=treated.weights[node.weight]) for node in readers]
            scale, _ = awq_scale(matrices, seen.magnitude, seen.second, places)
            if scale is not None:
                scales[tensor] = scale
        del moments, seen
    return scale_inputs(body, scales, nodes)


_PRODUCTS = ("MatMul", "Gemm")


def round_all(
    body: onnx.ModelProto, model: OnnxModel, treated: Treated, params: WeightsParams, run: RunContext
) -> dict[str, Rounded]:
    """By weight. Those that need data are calibrated in graph order, behind what is rounded already when asked."""
    found, readers = index(body.graph), weight_readers(treated.nodes)
    done: dict[str, Rounded] = {}

    def round_with(node: WeightNode, moments: Moments | None) -> None:
        treatment = treated.weights[node.weight]
        if len(readers[node.weight]) > 1:
            treatment = replace(treatment, method=_without_data(treatment))
        values = found.array(node.weight)
        assert values is not None
        rounded = round_weight(values, node, treatment, moments, params.damping, act_order=params.act_order)
        done[node.weight] = replace(rounded, values=kept(rounded.values))
        run.events.progress("rounding weights", len(done), len(treated.weights))

    calibrated = [
        node for node in treated.nodes if treated.weights[node.weight].method in ("gptq", "awq") and node.is_watched
    ]
    for node in treated.nodes:
        if node not in calibrated and node.weight not in done:
            round_with(node, None)
    if not calibrated:
        return done
    walk = _walk(model, run)
    steps = _by_input(calibrated) if params.propagate_error else _within_memory(calibrated, body)
    for part in steps:
        behind = with_weights(
            body, {name: rounded.values for name, rounded in done.items()} if params.propagate_error else {}
        )
        moments = walk.moments(behind, part)
        for node in part:
            if node.weight not in done:
                round_with(node, moments.get(node.node))
        del moments  # before the next part's are summed: of a wide layer they are as large as its block
    return done


def _by_input(nodes: Sequence[WeightNode]) -> Iterator[list[WeightNode]]:
    """Nodes that read the same tensor together: nothing between them depends on one another."""
    for tensor in dict.fromkeys(node.input for node in nodes):
        yield [node for node in nodes if node.input == tensor]


def _within_memory(nodes: Sequence[WeightNode], body: onnx.ModelProto) -> Iterator[list[WeightNode]]:
    sizes = {tensor.name: tuple(tensor.dims) for tensor in body.graph.initializer}
    part: list[WeightNode] = []
    taken = 0
    for group in _by_input(nodes):
        columns = max(int(np.prod(sizes[node.weight])) // sizes[node.weight][node.row_axis] for node in group)
        if part and taken + 8 * columns**2 > _MOMENTS_BYTES:
            yield part
            part, taken = [], 0
        part, taken = [*part, *group], taken + 8 * columns**2
    if part:
        yield part


def _walk(model: OnnxModel, run: RunContext) -> Walk:
    """Raises UsageError without data."""
    if run.data is None:
        raise UsageError(
            "gptq and awq look at the inputs that layers get, and the recipe has no data",
            hint="add `data` with a calibration split, or choose method rtn or hqq",
        )
    return Walk(model.signature, run.data.split("calibration"), run.events)


def _matrix(values: np.ndarray | None, node: WeightNode) -> np.ndarray:
    assert values is not None
    return node.matrix(values)


def _facts(
    done: Mapping[str, Rounded],
    treated: Treated,
    readers: Mapping[str, Sequence[WeightNode]],
    places: Mapping[str, str],
) -> dict[str, Any]:
    """What the report says: bits and error per layer, and bits per weight with scales and zero points."""
    weights = sum(part.values.size for part in done.values())
    layers = {
        ", ".join(_called(node) for node in readers[name]): {
            "bits": treated.weights[name].bits,
            "method": part.method,
            "group": part.quant.block or ("tensor" if part.quant.axis is None else "channel"),
            "relative_error": round(part.error, 5),
        }
        for name, part in done.items()
    }
    facts: dict[str, Any] = {
        "layers": layers,
        "quantized_weights": weights,
        "bits_per_weight": round(sum(part.bits for part in done.values()) / weights, 3),
    }
    if any(treated.weights[name].bits == 3 for name in done):
        facts["stored_wider"] = "3-bit codes take 4 bits in the file: neither ONNX nor a runtime has a 3-bit type"
    shared = [name for name in done if len(readers[name]) > 1 or name in {*treated.tied, *treated.tied.values()}]
    if shared:
        facts["shared"] = shared
    if places:
        facts["scales_divided_in"] = dict(places)
    return facts


def _called(node: WeightNode) -> str:
    """A layer with two weights is named with the weight."""
    return f"{node.node} ({node.weight})" if node.op in RECURRENT else node.node
