"""What training learned, written into the plan of the exported graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from torch import Tensor

from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.graph.index import index
from compressctl.graph.sites import Site
from compressctl.numerics.affine import SMALLEST_SCALE
from compressctl.numerics.int8_weights import fit_bias
from compressctl.techniques.quantize._qat_layers import QatLayers

_OFF_GRID = 0.01
"""Steps by which an exported weight may miss its code: float32's rounding of BatchNorm's factor is some 1e-5."""


def learned_plan(
    body: onnx.ModelProto, sites: Sequence[Site], plan: QuantPlan, layers: QatLayers, codes: Mapping[str, Tensor]
) -> tuple[QuantPlan, dict[str, str]]:
    """The plan with the learned scales in the places of calibrated ones, and the nodes for which that is not possible, with
    the reason.

    body: the exported graph, whose weights lie on the trained grid, times BatchNorm's factors. sites: its own.
    """
    tensors = {**plan.activations, **{name: found.quant() for name, found in layers.by_tensor.items()}}
    weights, missed, looked_up = dict(plan.weights), dict(layers.outside), index(body.graph)
    by_node = {site.node: site for site in sites if site.weight is not None}
    for path, layer in layers.by_path.items():
        for was in layer.sites:
            site = by_node.get(was.node)
            values = looked_up.array(site.weight) if site is not None and site.weight is not None else None
            if site is None or values is None:
                missed[was.node] = "the graph has no such node after training"
                continue
            quant = on_grid(values, site.weight_axis, codes[path].numpy(), layer.rounder.limit)
            if quant is None:
                missed[site.node] = "its weight in the graph is not the layer's times a factor for each channel"
                continue
            bias = looked_up.array(site.bias) if site.bias else None
            weights[site.weight or ""] = quant if bias is None else fit_bias(quant, tensors[site.inputs[0]], bias)
    return replace(plan, activations=tensors, weights=weights), missed


def on_grid(values: np.ndarray, axis: int, codes: np.ndarray, limit: int) -> TensorQuant | None:
    """How values, whose output channels lie along axis, are quantized to codes, whose lie first; None when they are not.

    A channel's factor may be negative: its codes are then the negative ones.
    """
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
    wanted = codes.reshape(len(codes), -1).astype(np.float64)
    if rows.shape != wanted.shape:
        return None
    factor = (rows * wanted).sum(1) / np.maximum((wanted**2).sum(1), 1)
    if np.any(np.abs(rows - factor[:, None] * wanted) > _OFF_GRID * np.abs(factor)[:, None]):
        return None
    scale = np.maximum(np.abs(factor), SMALLEST_SCALE).astype(np.float32)
    return TensorQuant("int8", scale, np.zeros(scale.shape, np.int8), axis, None, -limit, limit)
