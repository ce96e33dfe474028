"""A quantized network as a float graph that can be looked into: activations rounded where the plan rounds them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from compressctl.core.quant import QuantPlan
from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import copied, rename_reads
from compressctl.graph.sites import find_sites
from compressctl.graph.tensors import copy_of


def with_rounded_activations(model: onnx.ModelProto, plan: QuantPlan) -> tuple[onnx.ModelProto, Mapping[str, str]]:
    """A copy in which what runs on integers reads and makes the plan's activations through their codes.

    Weights stay as the graph has them. Returns too what each activation is called after it went through its codes; tensors keep
    their own names before it, the graph's outputs too. A node that stays float reads codes only where nothing else exists.
    """
    made = copy_of(model)
    editor = GraphEditor(made.graph)
    sites = find_sites(model.graph, plan.float_nodes)
    on_integers = {site.node for site in sites}
    only_codes = {site.output for site in sites if site.needs_output}
    names = {tensor: editor.name(tensor, "rounded") for tensor in plan.activations}
    nodes: list[onnx.NodeProto] = []
    for tensor in made.graph.input:
        nodes += _through_codes(editor, tensor.name, plan, names)
    for node in made.graph.node:
        written = copied(node)
        rename_reads(
            written, {name: new for name, new in names.items() if name in only_codes or node.name in on_integers}
        )
        nodes.append(written)
        for name in node.output:
            nodes += _through_codes(editor, name, plan, names)
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(nodes)
    return made, names


def _through_codes(editor: GraphEditor, tensor: str, plan: QuantPlan, names: Mapping[str, str]) -> list[onnx.NodeProto]:
    quant = plan.activations.get(tensor)
    if quant is None:
        return []
    parameters = [
        editor.constant(np.asarray(quant.scale, np.float32), tensor, "rounded_scale"),
        editor.constant(np.asarray(quant.zero_point, quant.dtype), tensor, "rounded_zero_point"),
    ]
    codes, name = editor.name(tensor, "rounded_codes"), editor.name
    return [
        helper.make_node("QuantizeLinear", [tensor, *parameters], [codes], name(codes, "Q")),
        helper.make_node("DequantizeLinear", [codes, *parameters], [names[tensor]], name(codes, "DQ")),
    ]
