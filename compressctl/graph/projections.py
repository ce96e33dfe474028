"""The products that make an attention's queries, keys and values."""

from __future__ import annotations

import onnx

from compressctl.graph.attention import Attention, Heads, find_attention
from compressctl.graph.index import GraphIndex, index
from compressctl.graph.rotary import unturned


def projections(proto: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """Names of the nodes that make queries, keys and values of each attention by a product each, all of one tensor."""
    found = index(proto.graph)
    made = []
    for attention in find_attention(proto):
        plain = unturned(found, attention)
        nodes = _products(found, attention if plain is None else plain[0])
        if None not in nodes:
            query, key, value = (node for node in nodes if node is not None)
            if len({node.input[0] for node in (query, key, value)}) == 1:
                made.append((query.name, key.name, value.name))
    return made


def _products(found: GraphIndex, attention: Attention) -> list[onnx.NodeProto | None]:
    return [_product(found, heads) for heads in (attention.queries, attention.keys, attention.values)]


def _product(found: GraphIndex, heads: Heads) -> onnx.NodeProto | None:
    """Before a bias and the Reshape into heads."""
    split = found.producers.get(heads.tensor)
    if not heads.tokens_first or split is None or split.op_type != "Reshape":
        return None
    node = found.producers.get(split.input[0])
    if node is not None and node.op_type == "Add":
        node = next((one for name in node.input if (one := found.producers.get(name)) is not None), None)
    return node if node is not None and node.op_type == "MatMul" else None
