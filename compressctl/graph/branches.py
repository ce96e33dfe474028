"""What an input decides: a selection between two results becomes an `If`, so that what the input does not need is not computed.

A network that decides by its input computes both sides and selects: `Where(decided, early, late)`, one decision a sample. That is the form in which it is trained,
calibrated and compared. Written for a runtime, whatever only `late` needs moves into the branch that is taken where some sample is not decided.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import bodies, copied, reads, rename_reads
from compressctl.graph.shapes import Shape, deduced, skeleton_of

SELECTS = "select_by_input"
"""Part of the names of the nodes that select: the attribute under which modules hold what becomes such a node."""


@dataclass(frozen=True)
class Selection:
    """Nodes that select by one decision. decided: the tensor with a truth value a sample. late: nodes that only undecided samples need, in order."""

    decided: str
    selects: tuple[onnx.NodeProto, ...]
    late: tuple[onnx.NodeProto, ...]

    @property
    def of(self) -> str:
        """The module that it belongs to, empty for the network's own."""
        return str(self.selects[0].name).partition(SELECTS)[0].rstrip(".")


def selects(node: onnx.NodeProto) -> bool:
    """Whether a node is one that a network decides by its input with."""
    return node.op_type == "Where" and node.domain == "" and f".{SELECTS}" in f".{node.name}"


def depends_on_input(graph: onnx.GraphProto) -> bool:
    """Whether what is computed depends on the input: a selection that becomes an `If`, or an `If` or `Loop` that the graph has."""
    return any(selects(node) or node.op_type in ("If", "Loop") for node in graph.node)


def selections(graph: onnx.GraphProto) -> list[Selection]:
    """Those of a graph, bodies aside, the last first: what it leaves out holds the others."""
    marked: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if selects(node):
            marked.setdefault(node.input[0], []).append(node)
    kept = {output.name for output in graph.output}
    found = [
        Selection(decided, tuple(nodes), tuple(_only_late(graph, nodes, kept)))
        for decided, nodes in reversed(marked.items())
    ]
    return [one for one in found if one.late]


def decisions(graph: onnx.GraphProto) -> list[Selection]:
    """The selections of a graph in the order in which a sample meets them: that of the first node that each may leave out."""
    made = {name: place for place, node in enumerate(graph.node) for name in node.output}
    return sorted(selections(graph), key=lambda one: made[one.late[0].output[0]])


def _only_late(graph: onnx.GraphProto, ends: list[onnx.NodeProto], kept: set[str]) -> list[onnx.NodeProto]:
    """Nodes that are read on the late side of `ends` alone."""
    last = {id(node) for node in ends}
    is_late: dict[str, bool] = {}
    found: list[onnx.NodeProto] = []

    def read(tensor: str, *, late: bool) -> None:
        is_late[tensor] = is_late.get(tensor, True) and late

    for node in reversed(graph.node):
        if id(node) in last:
            read(node.input[0], late=False)
            read(node.input[1], late=False)
            read(node.input[2], late=True)
            continue
        # What nothing reads at all stays where it is.
        mine = [is_late[name] for name in node.output if name in is_late]
        inside = bool(mine) and all(mine) and not kept & set(node.output)
        if inside:
            found.append(node)
        for name in reads(node):
            read(name, late=inside)
    return found[::-1]


def write_branches(proto: onnx.ModelProto) -> int:
    """Put what only undecided samples need into branches, in place. Returns how many selections became an `If`.

    For any batch the outputs are the same as before, to the bit: the branch is taken where every sample is decided, and selects otherwise.
    """
    graph = proto.graph
    if not any(selects(node) for node in graph.node):
        return 0
    known = deduced(skeleton_of(proto))
    writer = _Writer(proto, known.shapes, known.types)
    count = 0
    while found := next(iter(selections(graph)), None):
        writer.write(graph, found)
        count += 1
        count += writer.within(graph.node)
    return count


class _Writer:
    def __init__(self, proto: onnx.ModelProto, shapes: dict[str, Shape], types: dict[str, int]) -> None:
        self._editor = GraphEditor(proto.graph)
        self._shapes, self._types = shapes, types

    def within(self, nodes: Iterable[onnx.NodeProto]) -> int:
        """Selections in the branches that were just written."""
        count = 0
        for node in nodes:
            for body in bodies(node) if node.op_type == "If" else ():
                while found := next(iter(selections(body)), None):
                    self.write(body, found)
                    count += 1
                count += self.within(body.node)
        return count

    def write(self, graph: onnx.GraphProto, selection: Selection) -> None:
        moved = {id(node) for node in (*selection.late, *selection.selects)}
        name = self._editor.new_name(selection.selects[0].name.removesuffix("/Where") + "/If")
        decided, undecided = self._branches(graph, selection, moved, name)
        results = [node.output[0] for node in selection.selects]
        decision, condition = self._condition(selection.decided)
        # The nodes of a graph stand in the order in which they run: behind all that the branch reads, before all that read its results.
        place = max((n for n, node in enumerate(graph.node) if id(node) in moved), default=0)
        late = _readers(graph.node[:place], set(results)) - moved
        before = [node for node in graph.node[: place + 1] if id(node) not in moved | late]
        behind = [node for node in graph.node[: place + 1] if id(node) in late]
        nodes = [
            *before,
            *decision,
            helper.make_node("If", [condition], results, name=name, then_branch=decided, else_branch=undecided),
            *behind,
            *graph.node[place + 1 :],
        ]
        kept = [copied(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)

    def _condition(self, decided: str) -> tuple[list[onnx.NodeProto], str]:
        """Whether every sample is decided, as the one truth value that an If takes."""
        as_number, least, all_decided = (
            self._editor.new_name(f"{decided}_{part}") for part in ("number", "least", "all")
        )
        return [
            helper.make_node("Cast", [decided], [as_number], to=onnx.TensorProto.FLOAT, name=as_number),
            helper.make_node("ReduceMin", [as_number], [least], keepdims=0, name=least),
            helper.make_node("Cast", [least], [all_decided], to=onnx.TensorProto.BOOL, name=all_decided),
        ], all_decided

    def _branches(
        self, graph: onnx.GraphProto, selection: Selection, moved: set[int], name: str
    ) -> tuple[onnx.GraphProto, onnx.GraphProto]:
        inside = [copied(node) for node in graph.node if id(node) in moved]
        inside = self._with_own_copies(graph, inside, moved)
        taken: list[onnx.NodeProto] = []
        early_results, late_results = [], []
        for node in selection.selects:
            result = node.output[0]
            early, late = (self._editor.new_name(f"{result}_{side}") for side in ("early", "late"))
            taken.append(helper.make_node("Identity", [node.input[1]], [early], name=early))
            for own in inside:
                own.output[:] = [late if name == result else name for name in own.output]
            early_results.append(self._typed(early, result))
            late_results.append(self._typed(late, result))
        names = {node.output[0]: result.name for node, result in zip(selection.selects, late_results, strict=True)}
        for own in inside:
            rename_reads(own, names)
            if own.output[0] in names.values():  # it selects among the undecided now
                own.name = self._editor.new_name(own.name.replace(SELECTS, "undecided"))
        return (
            helper.make_graph(taken, f"{name}_decided", [], early_results),
            helper.make_graph(inside, f"{name}_undecided", [], late_results),
        )

    def _with_own_copies(
        self, graph: onnx.GraphProto, inside: list[onnx.NodeProto], moved: set[int]
    ) -> list[onnx.NodeProto]:
        """Behind what the branch reads of a DequantizeLinear around it stands one of its own: kernels for integers look for it beside them."""
        outer = {
            node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear" and id(node) not in moved
        }
        made: dict[str, onnx.NodeProto] = {}
        for node in inside:
            for place, name in enumerate(node.input):
                if name not in outer or (node.op_type == "Where" and selects(node)):
                    continue
                if name not in made:
                    made[name] = copied(outer[name])
                    made[name].output[0] = made[name].name = self._editor.new_name(f"{name}_inside")
                node.input[place] = made[name].output[0]
        return [*made.values(), *inside]

    def _typed(self, name: str, like: str) -> onnx.ValueInfoProto:
        shape = self._shapes.get(like)
        sizes = None if shape is None else [None, *shape[1:]]
        return helper.make_tensor_value_info(name, self._types.get(like, onnx.TensorProto.FLOAT), sizes)


def _readers(nodes: Iterable[onnx.NodeProto], tensors: set[str]) -> set[int]:
    """Nodes that depend on tensors."""
    found: set[int] = set()
    for node in nodes:
        if tensors & set(reads(node)):
            found.add(id(node))
            tensors = tensors | set(node.output)
    return found
