"""What each layer of a graph may be beside 8-bit activations, for whoever chooses among widths and other techniques at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel
from compressctl.core.technique import RunContext
from compressctl.techniques.quantize._as_overrides import ambiguous
from compressctl.techniques.quantize._candidates import Candidates, Layer, find_layers
from compressctl.techniques.quantize.params import StaticParams, Width
from compressctl.techniques.quantize.static import observe

WIDTHS: tuple[Width, ...] = ("int8", "int4", "float")


class LayerWidths:
    """A float graph that was calibrated once, in which every layer has a width of its own.

    Rounding is to nearest, with corrected biases, as quantize.static does it unless it is told otherwise.
    """

    def __init__(self, model: OnnxModel, run: RunContext) -> None:
        """Raises StageError for a graph that is quantized already, and NothingToCompressError where nothing could be."""
        params = StaticParams(overrides=())
        seen = observe(model, params, run)
        if seen.fixed:
            raise StageError(f"{', '.join(list(seen.fixed)[:4])}: quantized before")
        self._candidates = Candidates(model, seen, params, run.target)
        found = find_layers(seen, WIDTHS, per_channel=params.per_channel)
        unclear = set(ambiguous([node for layer in found for node in layer.nodes], seen.treated.sites))
        self._layers = {layer.nodes[0]: layer for layer in found if not unclear.intersection(layer.nodes)}
        self._others = {layer: _first(layer) for layer in found if layer.nodes[0] not in self._layers}

    @property
    def layers(self) -> Mapping[str, Layer]:
        """By the name of its first node: those that an override can name."""
        return self._layers

    @property
    def every(self) -> Iterator[Layer]:
        """Those that no override can name, too."""
        yield from self._layers.values()
        yield from self._others

    def alone(self, layer: str, width: Width) -> OnnxModel:
        """One layer at a width, everything else in float."""
        return self._candidates.alone(self._layers[layer], width)

    def together(self, widths: Mapping[str, Width]) -> OnnxModel:
        """Layers at these widths, all others at their first."""
        own = {layer: widths.get(name, _first(layer)) for name, layer in self._layers.items()}
        return self._candidates.model({**self._others, **own})


def _first(layer: Layer) -> Width:
    return next(iter(layer.bytes))
