"""How large two neighbouring inputs of a layer become together, for processors that add pairs of 8-bit products in 16 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.core.quant import TensorQuant
from compressctl.graph.sites import Site
from compressctl.numerics.int8_weights import PairsSeen

Way = tuple[str, int]
"""A tensor, and the axis of its channels."""

_MARGIN = 1.15
"""How much larger codes may come than those that were seen, before a sum can overflow."""

_LARGEST_CODE = 255


@dataclass(frozen=True)
class Largest:
    """Over all places of all samples, zeros of a padding among them, in the activation's own unit. alone: (channels,). together:
    (channels - 1,), sums of two neighbours."""

    alone: np.ndarray
    together: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, axis: int) -> Largest:
        """axis: of the channels. One sample after the other: the sums take as much memory as what is summed."""
        channels = values.shape[axis]
        found = cls(np.zeros(channels), np.zeros(max(channels - 1, 0)))
        for sample in values:
            turned = np.moveaxis(sample, axis - 1 if axis > 0 else axis, 0).reshape(channels, -1)
            sums = (turned[:-1] + turned[1:]).max(axis=1, initial=0.0)
            found = found.with_those_of(cls(turned.max(axis=1, initial=0.0), sums))
        return found

    def with_those_of(self, other: Largest) -> Largest:
        return Largest(np.maximum(self.alone, other.alone), np.maximum(self.together, other.together))

    def codes(self, activation: TensorQuant, positions: int) -> PairsSeen:
        """As codes of the activation, with a margin, in the order in which kernels multiply: position first, channel innermost. The last
        channel of a position and the first of the next may be as large as they come, both at once. positions: of a kernel."""
        scale, zero = float(activation.scale), float(activation.zero_point)
        alone = np.minimum(_MARGIN * np.maximum(self.alone / scale + zero + 0.5, 0.0), _LARGEST_CODE)
        together = _MARGIN * np.maximum(self.together / scale + 2 * zero + 1.0, 0.0)
        between = alone[-1] + alone[0]
        return PairsSeen(np.tile(alone, positions), np.tile(np.append(together, between), positions)[:-1])


def ways_of(body: onnx.ModelProto, sites: Sequence[Site]) -> dict[str, Way]:
    """By node with a weight, what is looked at: of convolutions in one group and of plain products."""
    made = {node.name: node for node in body.graph.node}
    return {
        site.node: (site.inputs[0], 1 if made[site.node].op_type == "Conv" else -1)
        for site in sites
        if site.weight and _is_watched(made[site.node])
    }


def _is_watched(node: onnx.NodeProto) -> bool:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return node.op_type in ("MatMul", "Gemm") or (node.op_type == "Conv" and groups == 1)


def positions_of(weight: Sequence[int]) -> int:
    """Of a kernel with a weight of this shape, at each of which all channels are multiplied; 1 of a product."""
    return math.prod(weight[2:])
