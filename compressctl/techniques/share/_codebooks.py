"""How many values the weights of each layer take, and which of them share a codebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.core.patterns import last_overrides
from compressctl.layers.layer import Layer
from compressctl.techniques.share._shared import Codebooks
from compressctl.techniques.share.params import KmeansParams


@dataclass(frozen=True)
class Chosen:
    """shared: by weight, in the order of the layers. left: why others stay as they are."""

    shared: Mapping[str, Codebooks]
    left: Mapping[str, str]


def choose(layers: Sequence[Layer], params: KmeansParams) -> Chosen:
    """Decide for every layer. Raises UsageError for an override that matches nothing."""
    overrides = last_overrides(params.overrides, {layer.name: layer.names for layer in layers})
    shared: dict[str, Codebooks] = {}
    left: dict[str, str] = {}
    for layer in layers:
        override = overrides.get(layer.name)
        clusters = params.clusters if override is None or override.clusters is None else override.clusters
        if override is not None and clusters < 2:
            left[layer.name] = f"override {override.match!r}"
        elif layer.weight.size:
            granularity = override.granularity if override is not None else None
            shared[layer.name] = Codebooks(clusters, granularity or params.granularity)
    return Chosen(shared, left)


def as_rows(weight: np.ndarray) -> np.ndarray:
    """(outputs, columns) float32, in the order of the file."""
    return np.ascontiguousarray(weight.reshape(len(weight), -1), np.float32)
