"""The network that runs a graph's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from compressctl.core.errors import StageError
from compressctl.sources.graph_network import numbers
from compressctl.sources.graph_network.operators import OPERATORS
from compressctl.sources.graph_network.resize import as_resize
from compressctl.sources.graph_network.words import HINT

LAYER = "layer"
"""The operator of a step that calls a layer of the network."""

AS_THEMSELVES = frozenset({
    "AveragePool", "Celu", "DepthToSpace", "Elu", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LRN", "LeakyRelu", "LpNormalization",
    "MaxPool", "PRelu", "Mish", "Selu", "Softplus", "Softsign", "SpaceToDepth",
})  # fmt: skip
"""Operators that are exported as the nodes that they were: they mean the same in every opset, and torch's exporter makes several nodes of most of them,
which runtimes have no kernels in one piece for, least of all in integers."""

Value = Tensor | list[int] | int | None
"""What a name stands for: a tensor, or sizes that are counted with, so that they stay open while the network is traced."""


class GraphNetwork(nn.Module):
    """Called with the graph's inputs in their order; gives its outputs by name.

    steps: each with "op", "reads" and "writes" by name, "attributes", and of a layer "path", where it stands in the network. constants: by name,
    where a parameter or buffer stands that is no layer's. sizes: small whole numbers by name, and the scales of a Resize. paths_of_nodes: by the name of
    the graph's node, where the layer stands that holds its weights.
    """

    def __init__(self, inputs: tuple[str, ...], outputs: tuple[str, ...], steps: list[dict[str, Any]]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.steps = inputs, outputs, steps
        self.constants: dict[str, str] = {}
        self.sizes: dict[str, Any] = {}
        self.paths_of_nodes: dict[str, str] = {}
        self.last: dict[str, int] = {name: place for place, step in enumerate(steps) for name in step["reads"]}

    def forward(self, *values: Tensor) -> dict[str, Tensor]:
        known = self.given(*values)
        for place, step in enumerate(self.steps):
            known.update(zip(step["writes"], self.made(step, known), strict=False))
            for name in step["reads"]:
                if self.last.get(name) == place and name not in self.outputs:
                    known.pop(name, None)
        return {name: numbers.as_tensor(known[name]) for name in self.outputs}

    def given(self, *values: Tensor) -> dict[str, Value]:
        """What is known before the first step: the inputs and the constants."""
        known: dict[str, Value] = dict(zip(self.inputs, values, strict=True))
        return known | self.sizes | {name: self._stored(path) for name, path in self.constants.items()}

    def made(self, step: dict[str, Any], known: Mapping[str, Value]) -> list[Value]:
        """What a step writes. Raises StageError for one that cannot be traced."""
        given = [known[name] if name else None for name in step["reads"]]
        try:
            return self._made(step, given)
        except GuardOnDataDependentSymNode as error:
            raise StageError(
                f"the network cannot be exported: {step['op']}, which writes {step['writes'][0]}, reads sizes that are computed as floats or from values",
                hint=f"fix the open axes that they follow from (model.shapes), or {HINT}",
            ) from error

    def _made(self, step: dict[str, Any], given: list[Value]) -> list[Value]:
        op, attributes = step["op"], step["attributes"]
        if op == LAYER:
            module = self.get_submodule(step["path"])
            given = [value if value is None else numbers.as_tensor(value, like=given) for value in given]
            made = module(*given)
            if step["attributes"] and type(module).__name__ == step["kind"] and torch.onnx.is_in_onnx_export():
                return [_node(step["node"], [value for value in given if isinstance(value, Tensor)], attributes, made)]
            return list(made) if isinstance(made, tuple) else [made]
        if numbers.can_count(op, given, attributes):
            with suppress(numbers.NotCountedError):
                return [numbers.counted(op, given, attributes)]
        if op not in numbers.TAKES_SIZES:
            given = [value if value is None else numbers.as_tensor(value, like=given) for value in given]
        found = OPERATORS[op](given, attributes)
        if op in AS_THEMSELVES and torch.onnx.is_in_onnx_export():
            return [_node(op, [value for value in given if isinstance(value, Tensor)], attributes, found)]
        if op in ("Resize", "Upsample") and torch.onnx.is_in_onnx_export():
            return [_node("Resize", *as_resize(given, attributes), found)]
        return list(found) if op in numbers.GIVES_SEVERAL else [found]

    def _stored(self, path: str) -> Tensor:
        holder, _, name = path.rpartition(".")
        found: Tensor = getattr(self.get_submodule(holder), name)
        return found


def _node(op: str, inputs: Sequence[Tensor | None], attributes: Mapping[str, Any], found: Tensor) -> Tensor:
    """The operator itself, with the shape and the type of what it computes."""
    own = {name: value for name, value in attributes.items() if name not in ("opset", "outputs")}
    made: Tensor = torch.onnx.ops.symbolic(op, inputs, own, dtype=found.dtype, shape=tuple(found.shape))
    return made
