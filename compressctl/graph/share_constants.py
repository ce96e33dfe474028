"""Constants that several bodies of a graph hold alike, stored once: folding writes what branches share into each of them."""

from __future__ import annotations

from collections import defaultdict

import onnx

from compressctl.graph.index import all_bodies, rename_reads
from compressctl.graph.own_copies import names_in, unused
from compressctl.graph.tensors import content, message_bytes

_FEWEST_BYTES = 1024
"""Below this a name costs as much as it saves."""


def share_constants(graph: onnx.GraphProto) -> None:
    """Move equal constants of the graph's bodies into the graph itself, where all of them read one."""
    taken = names_in(graph)
    alike: dict[tuple[object, ...], list[tuple[onnx.GraphProto, onnx.TensorProto]]] = defaultdict(list)
    for body in all_bodies(graph):
        outputs = {output.name for output in body.output}
        for tensor in body.initializer:
            if message_bytes(tensor) > _FEWEST_BYTES and tensor.name not in outputs:
                alike[content(tensor)].append((body, tensor))
    if not any(len(places) > 1 for places in alike.values()):
        return
    stored = {content(tensor): tensor.name for tensor in graph.initializer if message_bytes(tensor) > _FEWEST_BYTES}
    for key, places in alike.items():
        if len(places) < 2 and key not in stored:
            continue
        if key not in stored:
            moved = graph.initializer.add()
            moved.CopyFrom(places[0][1])
            moved.name = stored[key] = unused(f"shared_{places[0][1].name}", taken)
        for body, tensor in places:
            for node in body.node:
                rename_reads(node, {tensor.name: stored[key]})
            body.initializer.remove(tensor)
