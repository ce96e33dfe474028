"""The weights of a network or graph as (rows, columns), a row per output channel in the order in which files store it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressctl.core.model import Model, OnnxModel
from compressctl.core.patterns import matching
from compressctl.core.technique import RunContext
from compressctl.techniques.prune._sparse_layers import Layer, Weights
from compressctl.techniques.share._shared import Treatment
from compressctl.techniques.share.params import KmeansParams

if TYPE_CHECKING:
    from compressctl.graph.carry import Carried


def open_weights(model: Model, params: KmeansParams, run: RunContext) -> tuple[Weights, Carried | None]:
    """The weights of a copy of the model, and of a graph what was quantized before."""
    if isinstance(model, OnnxModel):
        from compressctl.techniques.prune._sparse_onnx import OnnxWeights, prepared

        carried = prepared(model, run.events)
        # Few values are few values whichever way a matrix is read.
        weights = OnnxWeights(
            carried.model,
            model.signature,
            embeddings=params.embeddings,
            seed=run.seed,
            before=carried.weights,
            any_order=True,
        )
        return weights, carried
    from compressctl.techniques.prune._sparse_torch import TorchWeights

    network = TorchWeights(copy.deepcopy(model.body), model.signature, embeddings=params.embeddings, seed=run.seed)
    return network, None


def as_rows(weight: np.ndarray) -> np.ndarray:
    """(out, positions, in), as layers come, to (out, in x positions)."""
    return np.ascontiguousarray(np.moveaxis(weight, 2, 1)).reshape(len(weight), -1)


def from_rows(rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The inverse of as_rows. shape: (out, positions, in)."""
    out, positions, channels = shape
    return np.ascontiguousarray(np.moveaxis(rows.reshape(out, channels, positions), 1, 2))


@dataclass(frozen=True)
class Chosen:
    """shared: treatment by weight, in the order of the layers. left: why others stay as they are."""

    shared: Mapping[str, Treatment]
    left: Mapping[str, str]


def choose(layers: Sequence[Layer], params: KmeansParams) -> Chosen:
    """Decide for every layer. Raises UsageError for an override that matches nothing."""
    shared: dict[str, Treatment] = {
        layer.name: Treatment(params.clusters, params.granularity) for layer in layers if layer.weight.size
    }
    left: dict[str, str] = {}
    for override in params.overrides:
        matched = matching(override.match, layers, lambda layer: (layer.name, *layer.aliases))
        for layer in matched:
            clusters = params.clusters if override.clusters is None else override.clusters
            left.pop(layer.name, None)
            shared[layer.name] = Treatment(clusters, override.granularity or params.granularity)
            if clusters < 2:
                shared.pop(layer.name)
                left[layer.name] = f"override {override.match!r}"
    return Chosen({layer.name: shared[layer.name] for layer in layers if layer.name in shared}, left)
