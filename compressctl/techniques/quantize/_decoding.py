"""Where a network ends and the decoding of its outputs begins: boxes, distances and scores, which stay in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx

from compressctl.graph.index import index, reads
from compressctl.graph.sites import Site

_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}

_EXPECTATION = 1 / 1000
"""Of all weights: what reads a Softmax with fewer takes means of a distribution (distances to a box's sides), and is no layer."""

_HEADS = 1 / 20
"""Of all multiply-accumulates, what the last layers of all branches may take together to stay in float with the decoding."""

_MOVES = {"Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Split"}

_AFTER = "decoding: outputs of several layers are joined here, where integers would change decisions"
_LAST = "decoding: boxes and scores are decoded from its outputs, which rounding would change"


def decoding(graph: onnx.GraphProto, sites: Sequence[Site], macs: Mapping[str, int]) -> dict[str, str]:
    """Sites that stay float, with the reason, where the outputs of several last layers are joined or combined.

    There values of different kinds meet, such as boxes in pixels and scores below 1, and a rare few of many logits decide. A single
    last layer, such as a classifier's, is no such case. macs: of sites, by node; the last layers stay float with what reads
    them where they are a small part of these.
    """
    expectations = _expectations(graph, sites)
    layers = {node.name for node in graph.node if node.op_type in _LAYERS and node.name not in expectations}
    after = _after(graph, layers)
    joined = _joined(graph, layers, after)
    if len(joined) < 2:
        return {}
    floats = dict.fromkeys((site.node for site in sites if site.node in after), _AFTER)
    # A matrix product gives floats anyway; a convolution would round what is decoded.
    last = [site.node for site in sites if site.node in joined and site.needs_output]
    if sum(macs.get(node, 0) for node in last) <= _HEADS * sum(macs.values()):
        floats.update(dict.fromkeys(last, _LAST))
    return floats


def _expectations(graph: onnx.GraphProto, sites: Sequence[Site]) -> set[str]:
    """Products with few weights that read a Softmax."""
    looked_up = index(graph)
    sizes = {site.node: int(np.prod(looked_up.initializers[site.weight].dims)) for site in sites if site.weight}
    found = set()
    for site in sites:
        if not site.weight or sizes[site.node] > _EXPECTATION * sum(sizes.values()):
            continue
        maker = looked_up.producers.get(site.inputs[0])
        while maker is not None and maker.op_type in _MOVES:
            maker = looked_up.producers.get(maker.input[0])
        if maker is not None and maker.op_type == "Softmax":
            found.add(site.node)
    return found


def _after(graph: onnx.GraphProto, layers: Collection[str]) -> set[str]:
    """Nodes from which no layer is reached any more."""
    leading: set[str] = set()
    after: set[str] = set()
    for node in reversed(graph.node):
        if node.name in layers or leading.intersection(node.output):
            leading.update(reads(node))
        else:
            after.add(node.name)
    return after


def _joined(graph: onnx.GraphProto, layers: Collection[str], after: Collection[str]) -> set[str]:
    """Layers whose outputs a node behind all layers brings together with another's."""
    sources: dict[str, frozenset[str]] = {}
    joined: set[str] = set()
    for node in graph.node:
        if node.name in layers:
            made = frozenset({node.name})
        elif node.name in after:
            parts = [sources.get(name, frozenset()) for name in reads(node)]
            made = frozenset[str]().union(*parts)
            # x * sigmoid(x) combines one layer's output with itself.
            if all(part != made for part in parts):
                joined |= made
        elif len(reads(node)) == 1:
            made = sources.get(node.input[0], frozenset())
        else:
            continue
        sources.update(dict.fromkeys(node.output, made))
    return joined
