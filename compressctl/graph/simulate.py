"""A quantized network as a float graph that can be looked into: activations rounded where the plan rounds them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper

from compressctl.core.quant import QuantPlan
from compressctl.graph.index import copied, index, names_read, reads
from compressctl.graph.sites import find_sites
from compressctl.graph.tensors import copy_of, from_array


def with_rounded_activations(model: onnx.ModelProto, plan: QuantPlan) -> onnx.ModelProto:
    """A copy in which what runs on integers reads and makes the plan's activations through their codes.

    Weights stay as the graph has them. A tensor's value after its codes is called `rounded(tensor)`; tensors keep their
    own names before it, the graph's outputs too. A node that stays float reads codes only where nothing else exists.
    """
    made = copy_of(model)
    nodes: list[onnx.NodeProto] = []
    sites = find_sites(model.graph, plan.float_nodes)
    on_integers = {site.node for site in sites}
    only_codes = {site.output for site in sites if site.needs_output}
    for tensor in made.graph.input:
        if tensor.name in plan.activations:
            nodes += _through_codes(made.graph, tensor.name, plan)
    for node in made.graph.node:
        written = copied(node)
        for position, name in enumerate(node.input):
            if name in plan.activations and (name in only_codes or node.name in on_integers):
                written.input[position] = rounded(name)
        nodes.append(written)
        for name in node.output:
            if name in plan.activations:
                nodes += _through_codes(made.graph, name, plan)
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(nodes)
    return made


def rounded(tensor: str) -> str:
    """The name of an activation's value after it went through its codes."""
    return f"{tensor}_rounded"


def _through_codes(graph: onnx.GraphProto, tensor: str, plan: QuantPlan) -> list[onnx.NodeProto]:
    quant, codes = plan.activations[tensor], f"{tensor}_rounded_codes"
    parameters = [f"{tensor}_rounded_scale", f"{tensor}_rounded_zero_point"]
    graph.initializer.append(from_array(np.asarray(quant.scale, np.float32), parameters[0]))
    graph.initializer.append(from_array(np.asarray(quant.zero_point, quant.dtype), parameters[1]))
    return [
        helper.make_node("QuantizeLinear", [tensor, *parameters], [codes], f"{codes}_Q"),
        helper.make_node("DequantizeLinear", [codes, *parameters], [rounded(tensor)], f"{codes}_DQ"),
    ]


def leading_to(model: onnx.ModelProto, tensors: Collection[str]) -> onnx.ModelProto:
    """A copy with only the nodes that the tensors depend on: what a run up to there has to compute."""
    made = copy_of(model)
    producers = index(model.graph).producers
    wanted: set[str] = set()
    waiting = list(tensors)
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in wanted:
            wanted.add(node.name)
            waiting.extend(reads(node))
    kept = [node for node in model.graph.node if node.name in wanted]
    read = names_read(kept)
    stored = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(kept)
    made.graph.initializer.extend(stored)
    return made
