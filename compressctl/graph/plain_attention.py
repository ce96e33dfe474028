"""A plan in which attention runs in float, as it must where keys and values come from a cache."""

from __future__ import annotations

from dataclasses import replace

from compressctl.core.model import OnnxModel
from compressctl.graph.attention import find_attention

_WHY = "in a bundle attention is one operator with a cache of float keys and values"


def with_plain_attention(model: OnnxModel) -> OnnxModel:
    """The same model with the products of its attentions left float. Raises as `find_attention` does."""
    if model.quant is None or not (model.quant.activations or model.quant.dynamic):
        return model
    nodes = [name for one in find_attention(model.body) for name in one.nodes]
    plan = model.quant
    return replace(model, quant=replace(plan, float_nodes={**plan.float_nodes, **dict.fromkeys(nodes, _WHY)}))
