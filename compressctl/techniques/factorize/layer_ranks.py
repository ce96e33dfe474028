"""What each layer of a graph may be in two thinner ones, for whoever chooses among ranks and other techniques at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressctl.core.model import OnnxModel
from compressctl.core.technique import RunContext
from compressctl.techniques.factorize._layer_rules import layer_rules
from compressctl.techniques.factorize._onnx_network import OnnxChains
from compressctl.techniques.factorize._split import Option, options
from compressctl.techniques.factorize._splits import decomposed
from compressctl.techniques.factorize.params import SvdParams
from compressctl.techniques.factorize.svd import ways_of


class LayerRanks:
    """A float graph whose layers were decomposed once. shares: of a layer's multiply-accumulates that its pieces keep at most."""

    def __init__(self, model: OnnxModel, run: RunContext, shares: Sequence[float]) -> None:
        self._chains = OnnxChains(model, run.events, run.target.input_shapes)
        params = SvdParams()
        rules = layer_rules(self._chains.survey(), params)
        ways = [way for rule in rules for way in ways_of(rule.layer, "auto")]
        splits = decomposed(self._chains.network, ways, run, params.damping if ways else None)
        self._options = {
            name: found
            for name, of_layer in splits.items()
            if (found := _few([one for split in of_layer for one in options(split, params.round_to)], shares))
        }

    @property
    def layers(self) -> Mapping[str, Mapping[str, Option]]:
        """By node: the options by name, as in "channel rank 24"."""
        return self._options

    def together(self, ranks: Mapping[str, str]) -> OnnxModel:
        """These layers in pieces, everything as it was otherwise; in float."""
        return self._chains.with_pieces({name: self._options[name][rank].pieces() for name, rank in ranks.items()})


def _few(found: Sequence[Option], shares: Sequence[float]) -> dict[str, Option]:
    """For each share the option within it that loses least."""
    kept: dict[str, Option] = {}
    for share in shares:
        within = [one for one in found if one.macs <= share * one.split.layer.macs]
        if within:
            best = min(within, key=lambda one: (one.error, one.macs))
            kept[f"{best.split.scheme} rank {best.rank[0]}"] = best
    return kept
