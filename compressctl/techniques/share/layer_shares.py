"""What each layer of a graph may be with few different weights, for whoever chooses among these and other techniques at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel
from compressctl.core.technique import RunContext
from compressctl.layers.layer import Layer
from compressctl.layers.network import open_network
from compressctl.layers.statistics import Moments, hold_mean_output
from compressctl.techniques.share._codebooks import as_rows, choose
from compressctl.techniques.share._compensate import compensate
from compressctl.techniques.share.kmeans import inputs_of, shared_of
from compressctl.techniques.share.params import KmeansParams

SHARING: Mapping[str, Any] = {"compensate": True, "embeddings": False}
"""What share.kmeans is told beside clusters."""


@dataclass(frozen=True)
class SharedLayer:
    """weight: float32, of the layer's shape, with few different values up to a scale per output. bytes: of indices, scales and entries, once
    the layer is in 8 bits."""

    weight: np.ndarray
    bytes: int


class LayerShares:
    """A float graph whose layers were given codebooks once for each number of clusters, errors made good by later weights."""

    def __init__(self, model: OnnxModel, run: RunContext, clusters: Sequence[int], is_late: Callable[[], bool]) -> None:
        """is_late: whether layers that are left shall have no options. Raises NothingToCompressError for a graph whose activations are
        quantized, StageError for weights that are not finite."""
        self._model, self._run = model, run
        network = self._open()
        every = {f"shared{count}": KmeansParams(clusters=count, **SHARING) for count in clusters}
        chosen = choose(network.layers(), next(iter(every.values())))
        layers = [layer for layer in network.layers() if layer.name in chosen.shared]
        self._moments, grams = inputs_of(network, layers, next(iter(every.values())), run)
        self._found: dict[str, dict[str, SharedLayer]] = {}
        self._layers: dict[str, Layer] = {}
        for number, layer in enumerate(sorted(layers, key=lambda one: -one.weight.size)):
            node, gram = layer.outline.name, grams.pop(layer.name, None)
            if is_late() or gram is None:
                continue
            self._layers[node] = layer
            self._found[node] = {name: self._shared(layer, params, gram) for name, params in every.items()}
            run.events.progress("sharing weights", number + 1, len(layers))

    def _open(self) -> Any:
        return open_network(self._model, self._run.events, matrices=True, any_order=True)

    def _shared(self, layer: Layer, params: KmeansParams, gram: np.ndarray) -> SharedLayer:
        codebooks = choose([layer], params).shared[layer.name]
        try:
            found = compensate(as_rows(layer.weight), shared_of(layer, codebooks, params, {}, self._run), gram)
        except ValueError as error:
            raise StageError(f"{layer.name}: {error}") from error
        # In 8 bits every output has a scale of its own, so that the same entry is another code in each.
        entries = found.codebook.shape[1] * len(found.codes)
        size = -(-found.index_bits * found.codes.size // 8) + entries + 4 * len(found.codes)
        return SharedLayer(found.values().reshape(layer.weight.shape), size)

    @property
    def layers(self) -> Mapping[str, Mapping[str, SharedLayer]]:
        """By node: the options by name, as in "shared16"."""
        return self._found

    def alone(self, node: str, option: str) -> OnnxModel:
        """One layer's weights shared, everything else as it was; in float."""
        network, layer, weight = self._open(), self._layers[node], self._found[node][option].weight
        network.write(layer.name, weight)
        moments: Moments | None = self._moments.get(layer.name)
        if moments is not None:
            hold_mean_output(network, layer, weight, moments.mean)
        made = network.model()
        assert isinstance(made, OnnxModel)
        return made
