"""The quantization that a file carried, fitted to a target whose integer kernels take other forms of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from compressctl.core.model import Model
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import stored_as, weight_codes
from compressctl.graph.index import GraphIndex, attribute, index
from compressctl.graph.sites import Site, find_sites
from compressctl.techniques.quantize.weights import Guard, channel_rows, fit_bias, largest_pair, quantize_weight

_MIDDLE = 128
_LARGEST_PAIR = 128
"""128 x 255 fits the 16 bits in which VPMADDUBSW adds two products, 129 x 255 does not."""


def fitted(model: Model, target: Target) -> tuple[Model, tuple[str, ...]]:
    """The model with a plan that the target runs on integers, and what that changed, in words.

    OpenVINO, TensorRT and ARM multiply signed weights around zero; OpenVINO and TensorRT have no 16-bit activations; a processor
    without VNNI overflows on full 8-bit weights (see Target.saturates). Everything else stays as the file had it.
    """
    if model.quant is None:
        return model, ()
    activations, dropped = _eight_bits(model.quant, target)
    weights, found = dict(model.quant.weights), index(model.body.graph)
    again: dict[str, list[str]] = {}
    nodes = {node.name: node for node in model.body.graph.node}
    for site in find_sites(model.body.graph, model.quant.float_nodes):
        quant = weights.get(site.weight or "")
        if quant is None or quant.block is not None or quant.dtype not in ("int8", "uint8"):
            continue
        new, why = _weight(site, nodes[site.node], quant, found, target)
        activation = activations.get(site.inputs[0])
        if why and new is not None:
            bias = found.array(site.bias) if site.bias else None
            weights[site.weight or ""] = new if bias is None or activation is None else fit_bias(new, activation, bias)
            again.setdefault(why, []).append(site.node)
    notes = [f"{len(nodes)} weights were rounded again, {why}" for why, nodes in again.items()]
    if dropped:
        notes.append(f"{dropped} activations in 16 bits stay float: {target.backend} multiplies 8 bits")
    return replace(model, quant=replace(model.quant, activations=activations, weights=weights)), tuple(notes)


def _eight_bits(plan: QuantPlan, target: Target) -> tuple[dict[str, TensorQuant], int]:
    if target.backend == "onnxruntime":
        return dict(plan.activations), 0
    kept = {name: quant for name, quant in plan.activations.items() if quant.dtype in ("int8", "uint8")}
    return kept, len(plan.activations) - len(kept)


def _weight(
    site: Site, node: onnx.NodeProto, quant: TensorQuant, found: GraphIndex, target: Target
) -> tuple[TensorQuant | None, str]:
    values = found.array(site.weight or "")
    if values is None:
        return None, ""
    if quant.dtype == "uint8" and target.backend == "onnxruntime" and target.profile != "arm64":
        # Its kernels take them, and two unsigned operands overflow nothing.
        return None, ""
    signed = stored_as(quant, "int8") if np.all(np.asarray(quant.zero_point) == _MIDDLE) else quant
    is_symmetric = signed.dtype == "int8" and not np.any(signed.zero_point)
    depthwise = site.op == "Conv" and values.shape[1] == 1 and attribute(node, "group", 1) == values.shape[0]
    guarded = target.saturates and target.backend != "tensorrt" and not depthwise
    if is_symmetric and not (guarded and _overflows(values, signed, site.weight_axis)):
        return (signed, "as signed codes of the same values") if signed is not quant else (None, "")
    guard: Guard = "pairs" if guarded else "off"
    why = "so that no two products overflow without VNNI" if is_symmetric else "around zero, as its kernels take them"
    return quantize_weight(values, site.weight_axis, per_channel=True, guard=guard), why


def _overflows(values: np.ndarray, quant: TensorQuant, axis: int) -> bool:
    rows = channel_rows(weight_codes(values, quant).astype(np.float32), axis)
    return bool(largest_pair(rows).max(initial=0) > _LARGEST_PAIR)
