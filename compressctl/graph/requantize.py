"""The quantization that a file carried, fitted to a target whose integer kernels take other forms of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from compressctl.core.model import OnnxModel
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import stored_as, weight_codes
from compressctl.graph.index import index
from compressctl.graph.sites import Site, find_sites, fits_kernel, is_depthwise
from compressctl.numerics.int8_weights import Guard, channel_rows, fit_bias, largest_pair, quantize_weight

_MIDDLE = 128
_LARGEST_PAIR = 128
"""128 x 255 fits the 16 bits in which VPMADDUBSW adds two products, 129 x 255 does not."""


def fitted(model: OnnxModel, target: Target) -> tuple[OnnxModel, tuple[str, ...]]:
    """The model with a plan that the target runs on integers, and what that changed, in words.

    OpenVINO, TensorRT and ARM multiply signed weights around zero; OpenVINO and TensorRT have no 16-bit activations; a processor
    without VNNI overflows on full 8-bit weights (see Target.saturates). Everything else stays as the file had it.
    """
    if model.quant is None:
        return model, ()
    activations, dropped = _eight_bits(model.quant, target)
    weights, found = dict(model.quant.weights), index(model.body.graph)
    again: dict[str, int] = {}
    for name, sites in readers(find_sites(model.body.graph, model.quant.float_nodes)).items():
        quant = weights.get(name)
        if quant is None or not all(fits_kernel(site.weight_axis, quant) for site in sites):
            continue
        new, why = for_kernels(quant, sites, model.body, target)
        if not why:
            continue
        for site in sites:
            bias, activation = found.array(site.bias) if site.bias else None, activations.get(site.inputs[0])
            new = new if bias is None or activation is None else fit_bias(new, activation, bias)
        weights[name] = new
        again[why] = again.get(why, 0) + len(sites)
    notes = [f"{count} weights were rounded again, {why}" for why, count in again.items()]
    if dropped:
        notes.append(f"{dropped} activations in 16 bits stay float: {target.backend} multiplies 8 bits")
    return replace(model, quant=replace(model.quant, activations=activations, weights=weights)), tuple(notes)


def readers(sites: Sequence[Site]) -> dict[str, list[Site]]:
    """The sites that read each weight."""
    found: dict[str, list[Site]] = {}
    for site in sites:
        if site.weight is not None:
            found.setdefault(site.weight, []).append(site)
    return found


def for_kernels(
    quant: TensorQuant, sites: Sequence[Site], model: onnx.ModelProto, target: Target, *, guards: bool = True
) -> tuple[TensorQuant, str]:
    """The 8-bit weight that these sites read as the target's integer kernels take it, and why it had to change, "" if not.

    quant: along the axis of every site's outputs, or one scale for the whole weight. Everything else is returned unchanged.
    guards: whether products that overflow on the target are a reason.
    """
    values = index(model.graph).array(sites[0].weight or "")
    if values is None or quant.block is not None or quant.dtype not in ("int8", "uint8"):
        return quant, ""
    if quant.dtype == "uint8" and target.backend == "onnxruntime" and target.profile != "arm64":
        # Its kernels take them, and two unsigned operands overflow nothing.
        return quant, ""
    signed = stored_as(quant, "int8") if np.all(np.asarray(quant.zero_point) == _MIDDLE) else quant
    is_symmetric = signed.dtype == "int8" and not np.any(signed.zero_point)
    saturates = guards and target.saturates and target.backend != "tensorrt"
    guarded = saturates and not all(is_depthwise(site, values.shape, model.graph) for site in sites)
    axes = sorted({site.weight_axis for site in sites})
    if is_symmetric and not (guarded and any(_overflows(values, signed, axis) for axis in axes)):
        return signed, "as signed codes of the same values" if signed is not quant else ""
    guard: Guard = "pairs" if guarded else "off"
    # Sites that read it in different ways share one scale, the largest that any of them needs.
    news = [quantize_weight(values, axis, per_channel=len(axes) == 1, guard=guard) for axis in axes]
    new = max(news, key=lambda one: float(np.max(one.scale)))
    return (
        new,
        "so that no two products overflow without VNNI" if is_symmetric else "around zero, as its kernels take them",
    )


def _eight_bits(plan: QuantPlan, target: Target) -> tuple[dict[str, TensorQuant], int]:
    if target.backend == "onnxruntime":
        return dict(plan.activations), 0
    kept = {name: quant for name, quant in plan.activations.items() if quant.dtype in ("int8", "uint8")}
    return kept, len(plan.activations) - len(kept)


def _overflows(values: np.ndarray, quant: TensorQuant, axis: int) -> bool:
    rows = channel_rows(weight_codes(values, quant).astype(np.float32), axis)
    return bool(largest_pair(rows).max(initial=0) > _LARGEST_PAIR)
