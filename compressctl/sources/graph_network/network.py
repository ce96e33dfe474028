"""The network that runs a graph's steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compressctl.sources.graph_network import numbers
from compressctl.sources.graph_network.operators import OPERATORS

LAYER = "layer"
"""The operator of a step that calls a layer of the network."""

Value = Tensor | list[int] | int | None
"""What a name stands for: a tensor, or sizes that are counted with, so that they stay open while the network is traced."""


class GraphNetwork(nn.Module):
    """Called with the graph's inputs in their order; gives its outputs by name.

    steps: each with "op", "reads" and "writes" by name, "attributes", and of a layer "path", where it stands in the network. constants: by name,
    where a parameter or buffer stands that is no layer's. sizes: small whole numbers by name.
    """

    def __init__(self, inputs: tuple[str, ...], outputs: tuple[str, ...], steps: list[dict[str, Any]]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.steps = inputs, outputs, steps
        self.constants: dict[str, str] = {}
        self.sizes: dict[str, Any] = {}
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
        """What a step writes."""
        return self._made(step, [known[name] if name else None for name in step["reads"]])

    def _made(self, step: dict[str, Any], given: list[Value]) -> list[Value]:
        op, attributes = step["op"], step["attributes"]
        if op == LAYER:
            made = self.get_submodule(step["path"])(*given)
            return list(made) if isinstance(made, tuple) else [made]
        if numbers.can_count(op, given, attributes):
            return [numbers.counted(op, given, attributes)]
        if op not in numbers.TAKES_SIZES:
            given = [value if value is None else numbers.as_tensor(value, like=given) for value in given]
        found = OPERATORS[op](given, attributes)
        return list(found) if op in numbers.GIVES_SEVERAL else [found]

    def _stored(self, path: str) -> Tensor:
        holder, _, name = path.rpartition(".")
        found: Tensor = getattr(self.get_submodule(holder), name)
        return found
