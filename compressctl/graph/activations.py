"""Activations that exporters spell out in several nodes, known by what they compute: a HardSwish has a dozen spellings."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, attribute, places
from compressctl.graph.opset import STANDARD

Kind = Literal["hard_swish", "hard_sigmoid", "silu", "gelu", "gelu_tanh", "mish"]

_FAR = np.array([10.0, 15.0, 30.0, 100.0, 1e3, 1e5, 1e8, 1e30])
_X = np.concatenate([np.linspace(-8, 8, 161), _FAR, -_FAR])
"""Where functions are compared: densely where they bend, and far out, where one that is cut off shows itself, as at the ends of 8 or 16 bits."""

_SAME = 1e-5
"""Constants that were rounded to float32 or to six digits make no other function."""

_COMPUTED = (np.float32, np.float16)
"""What numbers beside such a tensor are stored as."""

_MOST_NODES = 10
"""The longest spelling that is known, GELU by tanh, has eight."""

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _hard_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip(x / 6 + 0.5, 0, 1)


def _tanh_gelu(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return found


def _known(x: np.ndarray) -> dict[Kind, np.ndarray]:
    with np.errstate(over="ignore"):
        return {
            "hard_swish": x * _hard_sigmoid(x),
            "hard_sigmoid": _hard_sigmoid(x),
            "silu": x / (1 + np.exp(-x)),
            "gelu": x * 0.5 * (1 + _erf(x / math.sqrt(2))),
            "gelu_tanh": _tanh_gelu(x),
            "mish": x * np.tanh(np.logaddexp(x, 0)),
        }


_KNOWN = _known(_X)
_GLANCE = 110
"""A place in _X, 3.0, where all of them differ from each other and from most else."""

_Given = Sequence[Any]
"""Arrays and numbers, None for an input that is left out."""

_BENT: Mapping[str, Callable[[_Given, onnx.NodeProto], np.ndarray]] = {
    "Clip": lambda given, node: _clipped(given, node),
    "Erf": lambda given, node: _erf(given[0]),
    "Exp": lambda given, node: np.exp(given[0]),
    "HardSigmoid": lambda given, node: _gate(given[0], node),
    "Max": lambda given, node: np.maximum.reduce(np.broadcast_arrays(*given)),
    "Min": lambda given, node: np.minimum.reduce(np.broadcast_arrays(*given)),
    "Relu": lambda given, node: np.maximum(given[0], 0),
    "Sigmoid": lambda given, node: 1 / (1 + np.exp(-given[0])),
    "Softplus": lambda given, node: np.logaddexp(given[0], 0),
    "Tanh": lambda given, node: np.tanh(given[0]),
}
_PLAIN: Mapping[str, Callable[[_Given, onnx.NodeProto], np.ndarray]] = {
    "Add": lambda given, node: given[0] + given[1],
    "Div": lambda given, node: given[0] / given[1],
    "Log": lambda given, node: np.log(given[0]),
    "Mul": lambda given, node: given[0] * given[1],
    "Neg": lambda given, node: -given[0],
    "Pow": lambda given, node: np.power(given[0], given[1]),
    "Reciprocal": lambda given, node: 1 / given[0],
    "Sub": lambda given, node: given[0] - given[1],
}
_OPERATORS = {**_BENT, **_PLAIN}
_LAST = frozenset({"Mul", "Div", "Clip", "Min", "Max"})
"""What the known functions end with."""


@dataclass(frozen=True)
class Activation:
    """What its nodes together make of the tensor `reads`; the first of them writes the result, and others may read what is inside."""

    kind: Kind
    reads: str
    nodes: tuple[onnx.NodeProto, ...]


def spelled_out(graph: onnx.GraphProto, ranks: Mapping[str, int]) -> Iterator[Activation]:
    """Those of at least two nodes, in the graph and its bodies, the last first; none lies within another, and each in one body whole. The graph is
    canonical; what computes in float64 is left alone, which few kernels of activations do."""
    for place, looked_up in places(graph):
        own = {node.name for node in place.node}
        inside: set[str] = set()
        for node in reversed(place.node):
            found = None if node.name in inside else _activation(node, looked_up, own, ranks)
            if found is not None:
                inside.update(part.name for part in found.nodes)
                yield found


def write_hard_gates(graph: onnx.GraphProto, ranks: Mapping[str, int]) -> None:
    """Write in place every HardSwish and HardSigmoid that is spelled out as HardSigmoid, and a product, unless the graph had more nodes then: runtimes
    run those in one or two passes, where the sum, the two ends and the quotient take one each. Source: ONNX operators HardSigmoid-6, HardSwish-14."""
    written = [one for one in spelled_out(graph, ranks) if one.kind in ("hard_swish", "hard_sigmoid")]
    while True:
        unread = unread_inside(graph, written)
        shorter = [one for one in written if _saves(one, unread)]
        if len(shorter) == len(written):
            break
        written = shorter
    by_last = {one.nodes[0].name: one for one in written}
    editor = GraphEditor(graph)

    def replaced(node: onnx.NodeProto) -> Replacement:
        if node.name in unread:
            return []
        one = by_last.get(node.name)
        return None if one is None else _with_gate(one, editor)

    editor.replace_nodes(replaced)


def _saves(one: Activation, unread: set[str]) -> bool:
    gone = 1 + sum(node.name in unread for node in one.nodes[1:])
    return gone > (2 if one.kind == "hard_swish" else 1)


def _with_gate(one: Activation, editor: GraphEditor) -> list[onnx.NodeProto]:
    node = one.nodes[0]
    if one.kind == "hard_sigmoid":
        return [helper.make_node("HardSigmoid", [one.reads], list(node.output), node.name, alpha=1 / 6, beta=0.5)]
    gate = editor.name(node.output[0], "gate")
    return [
        helper.make_node("HardSigmoid", [one.reads], [gate], editor.name(node.name, "gate"), alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", [one.reads, gate], list(node.output), node.name),
    ]


def unread_inside(graph: onnx.GraphProto, found: Sequence[Activation]) -> set[str]:
    """Names of the nodes inside that nothing reads any more once the last of each writes the result by itself, from what it reads."""
    still_read = {one.reads for one in found}
    readers: dict[str, set[str]] = {}
    outputs: set[str] = set()
    for _, looked_up in places(graph):
        outputs |= looked_up.outputs
        for name, nodes in looked_up.consumers.items():
            readers.setdefault(name, set()).update(node.name for node in nodes)
    lasts = {one.nodes[0].name for one in found}
    gone = set(lasts)
    for node in (node for one in found for node in one.nodes[1:]):  # readers before what they read
        name = node.output[0]
        if name not in outputs | still_read and readers.get(name, set()) <= gone:
            gone.add(node.name)
    return gone - lasts


def _activation(
    node: onnx.NodeProto, looked_up: GraphIndex, own: Container[str], ranks: Mapping[str, int]
) -> Activation | None:
    if node.op_type not in _LAST or not _is_known(node):
        return None
    region = _behind(node, looked_up, own)
    if len(region) < 2 or not any(part.op_type in _BENT for part in region):
        return None
    written = {part.output[0]: part for part in region}
    read = dict.fromkeys(name for part in region for name in part.input if name and looked_up.array(name) is None)
    for root in reversed(read):
        reader = _Reader(root, written, looked_up, ranks)
        kind = _kind(reader.of(node.output[0]))
        if kind is not None and len(reader.ran) > 1:
            return Activation(kind, root, tuple(reversed(reader.ran)))
    return None


def _behind(node: onnx.NodeProto, looked_up: GraphIndex, own: Container[str]) -> list[onnx.NodeProto]:
    """The node and the elementwise ones of its graph that it is made by, the nearest first."""
    found = [node]
    for part in found:
        for name in part.input:
            maker = looked_up.producers.get(name)
            if maker is None or maker.name not in own or not _is_known(maker) or len(found) == _MOST_NODES:
                continue
            if maker not in found:
                found.append(maker)
    return found


def _is_known(node: onnx.NodeProto) -> bool:
    return node.op_type in _OPERATORS and node.domain in STANDARD


class _Reader:
    """What tensors are as functions of one of them. ran: the nodes that were run, in their order."""

    def __init__(
        self, root: str, written: Mapping[str, onnx.NodeProto], looked_up: GraphIndex, ranks: Mapping[str, int]
    ) -> None:
        self._written, self._looked_up, self._rank = written, looked_up, ranks.get(root, 0)
        self._known: dict[str, np.ndarray | None] = {root: _X}
        self.ran: list[onnx.NodeProto] = []

    def of(self, name: str) -> np.ndarray | None:
        """None where it is not a function of that tensor alone."""
        if name not in self._known:
            self._known[name] = self._constant(name) if name not in self._written else self._run(self._written[name])
        return self._known[name]

    def _constant(self, name: str) -> np.ndarray | None:
        """A single number that leaves the tensor's shape alone."""
        value = self._looked_up.array(name)
        is_number = value is not None and value.size == 1 and value.ndim <= self._rank and value.dtype in _COMPUTED
        return np.asarray(value, np.float64).reshape(()) if is_number else None

    def _run(self, node: onnx.NodeProto) -> np.ndarray | None:
        given = [self.of(name) if name else None for name in node.input]
        if any(value is None and name for value, name in zip(given, node.input, strict=True)):
            return None
        self.ran.append(node)
        with np.errstate(all="ignore"):
            return _OPERATORS[node.op_type](given, node)


def _kind(values: np.ndarray | None) -> Kind | None:
    if values is None or values.shape != _X.shape:
        return None
    at = values[_GLANCE]
    near = (kind for kind, known in _KNOWN.items() if abs(at - known[_GLANCE]) <= _SAME * (1 + abs(known[_GLANCE])))
    return next((kind for kind in near if np.allclose(values, _KNOWN[kind], rtol=_SAME, atol=_SAME)), None)


def _gate(x: np.ndarray, node: onnx.NodeProto) -> np.ndarray:
    alpha, beta = (float(attribute(node, name, default)) for name, default in (("alpha", 0.2), ("beta", 0.5)))  # type: ignore[arg-type]
    return np.clip(alpha * x + beta, 0, 1)


def _clipped(given: _Given, node: onnx.NodeProto) -> np.ndarray:
    """Source: ONNX Clip-6 (attributes) and Clip-11 (inputs)."""
    low, high = (*given[1:], None, None)[:2] if len(given) > 1 else (attribute(node, "min"), attribute(node, "max"))
    found: np.ndarray = np.clip(given[0], -np.inf if low is None else low, np.inf if high is None else high)
    return found
