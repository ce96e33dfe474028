"""Quantization as data: which tensor is stored with which scale, zero point and type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TensorQuant:
    """How one tensor is quantized: real = scale * (code - zero_point).

    dtype: "uint8", "int8", "int4", ... scale: float32, of weights in 4 bits and fewer perhaps below zero, shape () per tensor,
    (channels,) per channel, blocked otherwise. zero_point: the same shape, of that integer type. axis: the channel axis, None per tensor. block: elements that share
    a scale along axis, None when not blocked.
    quantized_min, quantized_max: the codes in use when fewer than the type has (7-bit weights in an int8 tensor).
    """

    dtype: str
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None
    block: int | None = None
    quantized_min: int | None = None
    quantized_max: int | None = None


@dataclass(frozen=True)
class QuantPlan:
    """Every quantized tensor of a graph, and what was left in float with the reason.

    activations: by tensor name. weights: by initializer name. float_nodes: node name to the reason it stays float.
    dynamic: names of the products whose input is quantized when the model runs, by the range that it then has. weights_alone: names of those
    of float_nodes whose weight an earlier stage rounded: it is stored by its entry, and computed with in float.
    """

    activations: Mapping[str, TensorQuant] = field(default_factory=dict)
    weights: Mapping[str, TensorQuant] = field(default_factory=dict)
    float_nodes: Mapping[str, str] = field(default_factory=dict)
    dynamic: frozenset[str] = frozenset()
    weights_alone: frozenset[str] = frozenset()

    def is_float(self, node: str) -> bool:
        """Whether a node's weight is stored in float, too, whatever entry there is of that name."""
        return node in self.float_nodes and node not in self.weights_alone
