"""Layers whose weights alone may have several widths: what each takes, the network with one of them rounded, and a choice in words of quantize.weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx

from compressctl.core.errors import UsageError
from compressctl.core.model import OnnxModel
from compressctl.core.patterns import literal, matching
from compressctl.core.technique import RunContext
from compressctl.graph.carry import carry
from compressctl.graph.index import index
from compressctl.graph.replace_weights import with_weights
from compressctl.graph.simplify import simplify
from compressctl.graph.weight_nodes import WeightNode, find_weighted, names_of, tied_weights, weight_readers
from compressctl.techniques.quantize._round_weight import Rounded
from compressctl.techniques.quantize.params import WeightChoice, WeightOverride, WeightsParams
from compressctl.techniques.quantize.weights import round_all, takes_signed_scales, treat

FLOAT = WeightChoice(bits="float")


@dataclass(frozen=True)
class ChoiceLayer:
    """Nodes that share weights, a tied table and its head among them, which get one width. parameters: of all their weights, each matrix once.
    bits: in the file, by option. decided: by the recipe's own overrides, so that there is one option."""

    nodes: tuple[str, ...]
    parameters: int
    bits: dict[WeightChoice, int] = field(default_factory=dict, hash=False, compare=False)
    decided: bool = False


class WeightChoices:
    """A float graph whose weights were rounded once for each option."""

    def __init__(self, model: OnnxModel, base: WeightsParams, options: Sequence[WeightChoice], run: RunContext) -> None:
        """options: FLOAT among them where a layer may stay as it is. Raises UsageError for patterns that match nothing and nodes that none can name."""
        self._model, self._base = model, base
        carried = carry(model, simplify(model.body), run.events)
        self._body: onnx.ModelProto = carried.model
        self._nodes = [node for node in find_weighted(self._body.graph) if node.weight not in carried.weights]
        decided = self._decided()
        self.layers = tuple(self._joined(decided))
        _check_names(self._nodes)
        self._rounded: dict[WeightChoice, tuple[onnx.ModelProto, dict[str, Rounded]]] = {}
        for option in [option for option in options if option != FLOAT]:
            free = [layer for layer in self.layers if not layer.decided]
            treated, copied = treat(
                self._body,
                self.explicit(dict.fromkeys(free, option), shortest=False),
                carried.weights,
                signed=takes_signed_scales(base, run),
            )
            done = round_all(copied.model, model, treated, base, run)
            self._rounded[option] = (copied.model, done)
            readers = {name: found[0].node for name, found in weight_readers(treated.nodes).items()}
            self._count(option, readers, treated.tied, done)
        for layer in self.layers:
            if FLOAT in options or not layer.bits:
                layer.bits[FLOAT] = 32 * layer.parameters

    def alone(self, layer: ChoiceLayer, option: WeightChoice) -> OnnxModel:
        """One layer's weights rounded, as float numbers; everything else as it was."""
        body, done = self._rounded[option]
        nodes = set(layer.nodes)
        readers = weight_readers([node for node in find_weighted(body.graph) if node.weight in done])
        own = {weight for weight, found in readers.items() if nodes & {node.node for node in found}}
        return replace(self._model, body=with_weights(body, {weight: done[weight].values for weight in own}))

    def explicit(self, chosen: Mapping[ChoiceLayer, WeightChoice], *, shortest: bool = True) -> WeightsParams:
        """quantize.weights with an override for each node behind the recipe's own. shortest: the bits that most layers get are said for all instead."""
        # An option that says more than bits would change what all others leave unsaid.
        bare = (option for option in chosen.values() if option != FLOAT and set(option.said) == {"bits"})
        counted = Counter(bare).most_common(1)
        usual = counted[0][0] if shortest and counted else None
        base = self._base if usual is None else self._base.model_copy(update=usual.said)
        overrides = [
            WeightOverride(match=literal(node), **option.said)
            for layer, option in chosen.items()
            for node in layer.nodes
            if option != usual or node in self._overridden
        ]
        return base.model_copy(update={"overrides": (*base.overrides, *overrides)})

    def rounding_error(self, layer: ChoiceLayer, option: WeightChoice) -> dict[str, float]:
        """Mean squared error of each of the layer's weights in the plain graph, by name."""
        body, done = self._rounded[option]
        before, after = index(self._body.graph), {name: part.values for name, part in done.items()}
        plain = {node.node: node for node in self._nodes}
        errors = {}
        for node in find_weighted(body.graph):
            if node.node in layer.nodes and node.weight in after:
                values = before.array(plain[node.node].weight)
                assert values is not None
                rounded = node.matrix(after[node.weight])
                errors[plain[node.node].weight] = float(np.mean((rounded - plain[node.node].matrix(values)) ** 2))
        return errors

    @property
    def body(self) -> onnx.ModelProto:
        return self._body

    @cached_property
    def _overridden(self) -> set[str]:
        """Nodes that the recipe's own overrides mean."""
        return {
            node.node
            for override in self._base.overrides
            for node in matching(override.match, self._nodes, names_of, what="node")
        }

    def _decided(self) -> set[str]:
        return {
            node.node
            for override in self._base.overrides
            if override.bits is not None
            for node in matching(override.match, self._nodes, names_of, what="node")
        }

    def _joined(self, decided: Collection[str]) -> Iterable[ChoiceLayer]:
        """In graph order, joined by weights that they share, by nodes with several weights, and by a table that is the head's matrix too."""
        tied = tied_weights(self._body.graph, self._nodes)
        sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in self._body.graph.initializer}
        groups: list[tuple[set[str], set[str]]] = []  # matrices, and nodes
        for node in self._nodes:
            matrices, nodes = {tied.get(node.weight, node.weight)}, {node.node}
            for group in [group for group in groups if group[0] & matrices or group[1] & nodes]:
                matrices, nodes = matrices | group[0], nodes | group[1]
                groups.remove(group)
            groups.append((matrices, nodes))
        order = {node.node: place for place, node in reversed(list(enumerate(self._nodes)))}
        found = [
            ChoiceLayer(
                tuple(sorted(nodes, key=order.__getitem__)),
                sum(sizes.get(name, 0) for name in matrices),
                decided=bool(nodes & set(decided)),
            )
            for matrices, nodes in groups
        ]
        return sorted(found, key=lambda layer: order[layer.nodes[0]])

    def _count(
        self,
        option: WeightChoice,
        readers: Mapping[str, str],
        tied: Mapping[str, str],
        done: Mapping[str, Rounded],
    ) -> None:
        for layer in self.layers:
            own = [name for name, node in readers.items() if node in layer.nodes]
            if own:
                # A decided layer takes the same whatever the others get: one option is enough to say so.
                key = next(iter(layer.bits), option) if layer.decided else option
                layer.bits[key] = sum(
                    done[name].bits for name in own if tied.get(name) not in own or tied[name] == name
                )


def _check_names(nodes: Sequence[WeightNode]) -> None:
    """Raises UsageError for a node whose name is something else's too, so that no override can mean it alone."""
    names = Counter(name for node in {node.node: node for node in nodes}.values() for name in {node.node, node.op})
    for weight in {node.weight for node in nodes}:
        names[weight] += 1
    for node in nodes:
        if names[node.node] > 1:
            raise UsageError(
                f"{node.node} names more than one thing in this graph, so that no override can mean it alone"
            )
