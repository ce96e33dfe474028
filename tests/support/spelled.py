"""Activations as exporters spell them: expressions of operators and numbers, and the graphs that compute them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compressctl.graph.canonical import canonical

SHAPE = [2, 3, 4]
Expression = tuple[Any, ...] | str | float
"""An operator and what it reads: "x", numbers, further ones."""

GATE: Sequence[Expression] = (
    ("HardSigmoid", "x"),
    ("Div", ("Clip", ("Add", "x", 3.0), 0.0, 6.0), 6.0),
    ("Mul", ("Clip", ("Add", 3.0, "x"), 0.0, 6.0), 1 / 6),
    ("Clip", ("Add", ("Mul", "x", 0.166667), 0.5), 0.0, 1.0),
    ("Min", ("Max", ("Add", ("Div", "x", 6.0), 0.5), 0.0), 1.0),
    ("Div", ("Min", ("Relu", ("Sub", "x", -3.0)), 6.0), 6.0),
)
SPELLINGS: dict[str, Sequence[Expression]] = {
    "hard_sigmoid": GATE[1:],
    "hard_swish": (
        *(("Mul", "x", gate) for gate in GATE),
        *(("Mul", gate, "x") for gate in GATE),
        ("Div", ("Mul", "x", ("Clip", ("Add", "x", 3.0), 0.0, 6.0)), 6.0),
        ("Mul", ("Mul", ("Clip", ("Add", "x", 3.0), 0.0, 6.0), "x"), 0.16666667),
        ("Mul", ("Div", "x", 6.0), ("Clip", ("Add", "x", 3.0), 0.0, 6.0)),
    ),
    "silu": (
        ("Mul", "x", ("Sigmoid", "x")),
        ("Div", "x", ("Add", ("Exp", ("Neg", "x")), 1.0)),
        ("Mul", ("Reciprocal", ("Add", 1.0, ("Exp", ("Neg", "x")))), "x"),
    ),
    "gelu": (
        ("Mul", ("Mul", "x", ("Add", ("Erf", ("Div", "x", math.sqrt(2))), 1.0)), 0.5),
        ("Mul", ("Mul", "x", 0.5), ("Add", ("Erf", ("Mul", "x", math.sqrt(0.5))), 1.0)),
        ("Mul", "x", ("Div", ("Add", 1.0, ("Erf", ("Mul", "x", 0.7071068))), 2.0)),
    ),
    "gelu_tanh": (
        ("Mul", ("Mul", 0.5, "x"), ("Add", ("Tanh", ("Mul", ("Add", "x", ("Mul", ("Pow", "x", 3.0), 0.044715)), 0.79788456)), 1.0)),
        ("Mul", "x", ("Mul", 0.5, ("Add", 1.0, ("Tanh", ("Mul", 0.79788456, ("Mul", "x", ("Add", 1.0, ("Mul", 0.044715, ("Mul", "x", "x"))))))))),
    ),
    "mish": (
        ("Mul", "x", ("Tanh", ("Softplus", "x"))),
        ("Mul", ("Tanh", ("Log", ("Add", ("Exp", "x"), 1.0))), "x"),
    ),
}  # fmt: skip
ALL = [(kind, spelling) for kind, spellings in SPELLINGS.items() for spelling in spellings]


class Writer:
    """As nodes: equal parts of an expression are one node or several, as drawn."""

    def __init__(self, shares: bool = True, number_rank: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._shares, self._rank, self._known = shares, number_rank, dict[Any, str]()

    def write(self, part: Expression) -> str:
        if isinstance(part, str):
            return part
        if self._shares and part in self._known:
            return self._known[part]
        if isinstance(part, float):
            name = f"number_{len(self.constants)}"
            ends = np.array(part, np.float32).reshape((1,) * self._rank)
            self.constants.append(numpy_helper.from_array(ends, name))
        else:
            op, *inputs = part
            op, _, alpha = op.partition(":")
            reads = [self._end(one) if op == "Clip" and place else self.write(one) for place, one in enumerate(inputs)]
            name = f"made_{len(self.nodes)}"
            own = {"alpha": float(alpha or 1 / 6), "beta": 0.5} if op == "HardSigmoid" else {}
            self.nodes.append(helper.make_node(op, reads, [name], f"node_{len(self.nodes)}", **own))
        self._known[part] = name
        return name

    def _end(self, number: float) -> str:
        """Of a Clip: a number without axes."""
        name = f"end_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(number, np.float32), name))
        return name


def model_of(spelling: Expression, outputs: Sequence[str] = (), opset: int = 17, **writer: Any) -> onnx.ModelProto:
    """What is spelled, summed with x as in a residual block. outputs: of what lies inside, as made_0."""
    made = Writer(**writer)
    last = made.write(spelling)
    made.nodes.append(helper.make_node("Add", [last, "x"], ["sum"], "sum"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("x", "y", "sum", *outputs)]
    graph = helper.make_graph(made.nodes, "g", values[:2], values[2:], made.constants)
    return canonical(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))
