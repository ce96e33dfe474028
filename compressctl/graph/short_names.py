"""Names of a few letters in place of those that exporters write, which can make half of a small model's file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, product
from string import ascii_letters

import onnx

from compressctl.graph.index import all_graphs
from compressctl.graph.tensors import copy_of


def with_short_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a canonical graph with the names of its inputs and outputs, short ones inside, and without inferred shapes.

    A node is called like the first tensor that it makes. A model with functions of its own stays as it is.
    """
    made = copy_of(model)
    if made.functions:
        return made
    kept = {value.name for value in (*made.graph.input, *made.graph.output)}
    free = (name for name in _names() if name not in kept)
    names: dict[str, str] = {"": "", **{name: name for name in kept}}

    def short(name: str) -> str:
        if name not in names:
            names[name] = next(free)
        return names[name]

    for graph in all_graphs(made.graph):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output, *graph.initializer):
            value.name = short(value.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = short(sparse.values.name)
        for annotation in graph.quantization_annotation:
            annotation.tensor_name = short(annotation.tensor_name)
            for entry in annotation.quant_parameter_tensor_names:
                entry.value = short(entry.value)
        for node in graph.node:
            node.input[:] = [short(name) for name in node.input]
            node.output[:] = [short(name) for name in node.output]
            node.name = next((name for name in node.output if name), "")
            node.doc_string = ""
    return made


def _names() -> Iterator[str]:
    for length in count(1):
        yield from map("".join, product(ascii_letters, repeat=length))
