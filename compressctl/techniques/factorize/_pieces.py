"""What stands in the place of a layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from compressctl.layers.layer import Layer, Outline

STATE_WEIGHT = (
    "it multiplies the state inside the layer, at every step: no runtime has a recurrent kernel with two factors there, and the projection "
    "that torch has (proj_size) changes what the layer gives"
)
"""Why what a recurrent layer multiplies its state with stays whole."""


@dataclass(frozen=True)
class Piece:
    """One layer of a chain. weight: of the outline's shape. bias: on the last piece, where the whole layer had one."""

    outline: Outline
    weight: np.ndarray
    bias: np.ndarray | None = None


@dataclass(frozen=True)
class Survey:
    """layers: what can be factorized, in the network's order, weights in float64, with the shapes of their inputs.

    whole: module or node to the reason why it cannot.
    """

    layers: tuple[Layer, ...]
    whole: dict[str, str] = field(default_factory=dict)


def measured(layer: Layer, input_shape: tuple[int, ...], calls: int = 1) -> Layer:
    """The layer in float64, with what one sample is to it."""
    bias = None if layer.bias is None else layer.bias.astype(np.float64)
    return replace(layer, weight=layer.weight.astype(np.float64), bias=bias, input_shape=input_shape, calls=calls)


def pointwise(name: str, width: int, channels: int, axes: int) -> Outline:
    """A 1 x 1 convolution, or a linear layer when there are no spatial axes."""
    return Outline(name, (width, channels, *(1,) * axes), (1,) * axes, (0,) * 2 * axes, (1,) * axes)
