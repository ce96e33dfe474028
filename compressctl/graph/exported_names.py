"""Names in a graph that torch exported: nodes after modules, constants after parameters, the exporter's notes removed."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

import onnx

from compressctl.graph.index import rename_reads

_SCOPES = "pkg.torch.onnx.name_scopes"
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def name_after_modules(proto: onnx.ModelProto, root: str) -> None:
    """Rename nodes and constants in place, and drop metadata.

    root: the attribute under which the exported wrapper holds the network; it vanishes from all names.
    A node that computes with a module's weight has the module's name, "layer1.0.conv1"; others add their operator,
    "layer1.0/Relu"; a number follows where that is not unique. What the names depend on is the network alone, not the
    exporter's counters.
    """
    graph = proto.graph
    _rename_values(graph, {tensor.name: _within(tensor.name, root) for tensor in graph.initializer})
    modules = [_within(_module(node), root) for node in graph.node]
    _rename_values(graph, _parameter_names(graph, modules))
    taken: set[str] = set()
    for node, module in zip(graph.node, modules, strict=True):
        node.name = _unique(_node_name(node, module), taken)
    _drop_metadata(proto)


def _within(name: str, root: str) -> str:
    return "" if name == root else name.removeprefix(root + ".")


def _module(node: onnx.NodeProto) -> str:
    """The path of the innermost module that called the operator; "" for the network itself or when it is not known."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)  # "['', 'layer1', 'layer1.0', 'relu']", the last is the operator
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def _parameter_names(graph: onnx.GraphProto, modules: Sequence[str]) -> dict[str, str]:
    """New names for weights that lost theirs when the exporter folded a transpose or a BatchNorm into them."""
    constants = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for node, scope in zip(graph.node, modules, strict=True):
        if node.op_type not in _WEIGHTED:
            continue
        roles = dict(zip(node.input[1:], ("weight", "bias"), strict=False))
        for name, role in roles.items():
            if name not in constants or name in renamed:
                continue
            module = node.input[1].removesuffix(".weight") if role == "bias" else scope
            wanted = f"{module}.{role}" if module else role
            is_unnamed = name.startswith("val_") or name.endswith(".weight_bias")
            if is_unnamed and wanted not in constants and wanted not in renamed.values():
                renamed[name] = wanted
    return renamed


def _node_name(node: onnx.NodeProto, module: str) -> str:
    if node.op_type in _WEIGHTED and node.input[1].endswith(".weight"):
        return str(node.input[1]).removesuffix(".weight")
    return f"{module}/{node.op_type}" if module else node.op_type


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _rename_values(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        rename_reads(node, names)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    known = [info for info in graph.value_info if info.name not in names]
    kept = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in known]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _drop_metadata(proto: onnx.ModelProto) -> None:
    """Stack traces of the machine that exported, and other notes; they can outweigh a small model."""
    graph = proto.graph
    carriers: Iterable[object] = (
        proto,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.input,
        *graph.output,
        *graph.value_info,
    )
    for carrier in carriers:
        del carrier.metadata_props[:]  # type: ignore[attr-defined]
        carrier.doc_string = ""  # type: ignore[attr-defined]
