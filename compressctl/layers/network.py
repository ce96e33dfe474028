"""The layers of a model in either form: their weights, to be read and written, and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from compressctl.core.data import Split
from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.events import Events
from compressctl.core.feeds import whole_feeds
from compressctl.core.model import Model, OnnxModel, Signature
from compressctl.graph.where_weights import layers_hint
from compressctl.layers.layer import Layer

See = Callable[[str, np.ndarray], None]
"""Gets a layer's name and what one call of it is given, a batch in float32."""

Inputs = Mapping[str, np.ndarray]


class Network(Protocol):
    """A copy of a model, whose weights are changed in place."""

    @property
    def signature(self) -> Signature: ...

    @property
    def skipped(self) -> Mapping[str, str]:
        """Weights that are no layers' here, with the reason."""
        ...

    @property
    def said(self) -> Sequence[str]:
        """What was quantized before, in sentences."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples of one call while layers are watched."""
        ...

    def layers(self) -> list[Layer]:
        """With the weights of now, in the order in which they work."""
        ...

    def write(self, name: str, weight: np.ndarray) -> None:
        """Set a weight, in the shape that `layers` gives."""
        ...

    def shift(self, name: str, change: np.ndarray) -> None:
        """Add to the layer's bias, (out,), where it has one of its own."""
        ...

    def watch(self, names: Sequence[str], batches: Iterable[Inputs], see: See) -> None:
        """Run all batches and show what enters each layer. Layers whose inputs cannot be seen are never shown."""
        ...

    def outputs(self, inputs: Inputs) -> Mapping[str, np.ndarray]:
        """What the model returns for one call, with the weights of now."""
        ...

    def model(self) -> Model:
        """The model with the weights of now."""
        ...


def open_network(
    model: Model, events: Events, *, embeddings: bool = False, matrices: bool = False, any_order: bool = False
) -> Network:
    """embeddings: whether tables count as layers. matrices: whether recurrent layers, transposed convolutions and stacked products
    do, each weight as a matrix of its own, whose inputs are not seen.

    any_order: whether weights of a graph count that one node reads as a matrix and another as its transpose; their rows are then
    the first reader's outputs. Raises NothingToCompressError when an earlier stage has quantized activations.
    """
    if isinstance(model, OnnxModel):
        from compressctl.layers.onnx_network import OnnxNetwork

        return OnnxNetwork(model, events, embeddings=embeddings, matrices=matrices, any_order=any_order)
    from compressctl.layers.torch_network import TorchNetwork

    return TorchNetwork(model, embeddings=embeddings, matrices=matrices)


def split_batches(split: Split, signature: Signature, size: int) -> Iterator[Inputs]:
    """Calls of at most so many samples; an incomplete one only where the size is free. Raises UsageError when there is none."""
    feed = None
    for feed in whole_feeds(split, signature, size):
        yield feed.inputs
    if feed is None:
        raise UsageError(f"the calibration split has {len(split)} samples, fewer than the model's fixed batch takes")


def facts_of(network: Network) -> dict[str, Any]:
    """What the report says about weights that were quantized before."""
    return {"already_quantized": list(network.said)} if network.said else {}


def nothing_to(
    what: str, model: Model, network: Network, left: Mapping[str, str], hint: str = ""
) -> NothingToCompressError:
    """The error of a stage that finds no layer to change. left: why layers stay as they are. hint: what else may help."""
    reasons = "; ".join(
        [*(f"{name}: {why}" for name, why in list({**left, **network.skipped}.items())[:3]), *network.said]
    )
    return NothingToCompressError(
        f"nothing to {what}: no linear layer or convolution with a weight that this stage can change"
        + (f" ({reasons})" if reasons else ""),
        hint="; ".join(part for part in (layers_hint(model), hint) if part),
    )
