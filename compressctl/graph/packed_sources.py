"""What the packed constants of a file are, read from the nodes that unpack them without running any."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

from compressctl.graph.unpacking import PREFIX


@dataclass(frozen=True)
class Source:
    """A tensor that is unpacked. dtype: numpy's name. constants: what it alone is made of, by name."""

    dtype: str
    shape: tuple[int, ...]
    constants: tuple[str, ...]


def packed_sources(graph: onnx.GraphProto) -> dict[str, Source]:
    """By name of the tensor; empty for a plain file."""
    found: dict[str, Source] = {}
    taken: dict[str, list[str]] = {}
    if not any(map(is_unpacker, graph.node)):
        return found
    made = {name for node in graph.node for name in node.output}
    for node in graph.node:
        if not is_unpacker(node) or node.name.startswith(f"{PREFIX}table."):
            continue
        number = node.name.removeprefix(PREFIX).partition(".")[0]
        constants = taken.setdefault(number, [])
        constants += [name for name in node.input if name not in made and name not in constants]
        dtype, _, sizes = node.doc_string.partition(" ")
        if sizes:
            shape = tuple(int(size) for size in sizes.split("x") if size.isdigit())
            found[node.output[0]] = Source(dtype, shape, tuple(constants))
    return found


def is_unpacker(node: onnx.NodeProto) -> bool:
    """By its name: unpack, the number of a tensor, the number of the node; or a table that they share."""
    name = node.name
    return name.startswith(PREFIX) and _NAME.fullmatch(name) is not None


_NAME = re.compile(re.escape(PREFIX) + r"(\d+\.\d+|table\.[a-z0-9.]+)")
