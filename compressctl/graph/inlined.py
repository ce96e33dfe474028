"""A model whose own functions are written out where they are called."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from compressctl.core.errors import UsageError
from compressctl.graph.index import all_nodes, bodies

_MOST_NODES = 1_000_000
"""Functions that call one another twice make a graph of 2^30 nodes from 30 of them, and every runtime writes them out."""


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself where it has no functions, and where they cannot be written out: past protobuf's 2 GiB, or a call that
    does not fit. What such a function costs, and the shape of what it gives, stay unknown.

    Raises UsageError for functions that would be more nodes than any runtime loads.
    """
    if not model.functions:
        return model
    _check_size(model)
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception:
        return model


_Name = tuple[str, str, str]


def _check_size(model: onnx.ModelProto) -> None:
    """How many nodes they are is counted in one pass; a function that calls itself is the inliner's to refuse."""
    functions = {(one.domain, one.name, one.overload): one for one in model.functions}
    sizes: dict[_Name, int] = {}

    def total(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(sizes.get((node.domain, node.op_type, node.overload), 1) for node in nodes)

    for name in _called_first(functions):
        sizes[name] = total(_with_bodies(functions[name].node))
    count = total(all_nodes(model.graph))
    if count > _MOST_NODES:
        raise UsageError(
            f"the model's functions are {count:,} nodes where they are written out, {_MOST_NODES:,} are allowed",
            hint="export it with fewer calls of functions in functions",
        )


def _called_first(functions: dict[_Name, onnx.FunctionProto]) -> list[_Name]:
    """Each function after those that it calls, those that call themselves aside."""
    order: list[_Name] = []
    seen: set[_Name] = set()
    for start in functions:
        waiting = [(start, False)]
        while waiting:
            name, is_done = waiting.pop()
            if is_done:
                order.append(name)
            elif name not in seen:
                seen.add(name)
                called = ((node.domain, node.op_type, node.overload) for node in _with_bodies(functions[name].node))
                waiting += [(name, True), *((one, False) for one in called if one in functions)]
    return order


def _with_bodies(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes, and those of their bodies (If, Loop, Scan)."""
    return [inner for node in nodes for inner in (node, *(one for body in bodies(node) for one in all_nodes(body)))]
