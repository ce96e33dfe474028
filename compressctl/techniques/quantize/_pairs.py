"""How large two neighbouring inputs of a layer become together, for processors that add pairs of 8-bit products in 16 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.core.data import Split
from compressctl.core.events import Events
from compressctl.core.model import Signature
from compressctl.core.quant import TensorQuant
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.sites import Site
from compressctl.numerics.int8_weights import PairsSeen
from compressctl.techniques.quantize._calibrate import calibration_batches

_MARGIN = 1.15
"""How much larger codes may come than those that were seen, before a sum can overflow."""

_LARGEST_CODE = 255


@dataclass(frozen=True)
class Largest:
    """Over all places of all samples, zeros of a padding among them, in the activation's own unit. alone: (channels,). together:
    (channels - 1,), sums of two neighbours. positions: of a kernel, at each of which all channels are multiplied."""

    alone: np.ndarray
    together: np.ndarray
    positions: int = 1

    @classmethod
    def of(cls, values: np.ndarray, axis: int, positions: int = 1) -> Largest:
        """axis: of the channels."""
        turned = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        return cls(turned.max(axis=1, initial=0.0), (turned[:-1] + turned[1:]).max(axis=1, initial=0.0), positions)

    def with_those_of(self, other: Largest) -> Largest:
        return Largest(np.maximum(self.alone, other.alone), np.maximum(self.together, other.together), self.positions)

    def codes(self, activation: TensorQuant) -> PairsSeen:
        """As codes of the activation, with a margin, in the order in which kernels multiply: position first, channel innermost. The last
        channel of a position and the first of the next may be as large as they come, both at once."""
        scale, zero = float(activation.scale), float(activation.zero_point)
        alone = np.minimum(_MARGIN * np.maximum(self.alone / scale + zero + 0.5, 0.0), _LARGEST_CODE)
        together = _MARGIN * np.maximum(self.together / scale + 2 * zero + 1.0, 0.0)
        between = alone[-1] + alone[0]
        return PairsSeen(np.tile(alone, self.positions), np.tile(np.append(together, between), self.positions)[:-1])


def largest_pairs(
    body: onnx.ModelProto, signature: Signature, split: Split, sites: Sequence[Site], events: Events
) -> dict[str, Largest]:
    """By node, of convolutions in one group and of plain products. sites: with weights."""
    made = {node.name: node for node in body.graph.node}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in body.graph.initializer}
    kept = [site for site in sites if site.weight and _is_watched(made[site.node])]
    if not kept:
        return {}
    axes = {site.node: 1 if made[site.node].op_type == "Conv" else -1 for site in kept}
    found: dict[tuple[str, int], Largest] = {}
    tapped = ActivationRecorder(body, list(dict.fromkeys(site.inputs[0] for site in kept)))
    for inputs, _ in calibration_batches(split, signature, tapped, events, "looking at pairs of inputs"):
        values = tapped.run(inputs)
        for way in {(site.inputs[0], axes[site.node]) for site in kept}:
            if values[way[0]].size:
                here = Largest.of(values[way[0]], way[1])
                found[way] = here.with_those_of(found[way]) if way in found else here
        del values
    return {
        site.node: Largest(seen.alone, seen.together, _positions(made[site.node], shapes[site.weight or ""]))
        for site in kept
        if (seen := found.get((site.inputs[0], axes[site.node]))) is not None
    }


def _is_watched(node: onnx.NodeProto) -> bool:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return node.op_type in ("MatMul", "Gemm") or (node.op_type == "Conv" and groups == 1)


def _positions(node: onnx.NodeProto, weight: Sequence[int]) -> int:
    return math.prod(weight[2:]) if node.op_type == "Conv" else 1
