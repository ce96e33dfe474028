"""What an input decides: a selection between two results becomes an `If`, so that what the input does not need is not computed.

A network that decides by its input computes both sides and selects: `Where(decided, early, late)`, one decision a sample. That is the form in which it is trained,
calibrated and compared. Written for a runtime, whatever only `late` needs moves into the branch that is taken where some sample is not decided.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import bodies, copied, reads, rename_reads
from compressctl.graph.shapes import Shape, deduced, skeleton_of
from compressctl.graph.tensors import copy_of

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


def undecided(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph without branches yet in which no sample is decided: everything is computed, as for the dearest input that there can be."""
    made = copy_of(model)
    editor = GraphEditor(made.graph)
    found = [(one.decided, _decider(made.graph, one)) for one in decisions(made.graph)]
    for decided, decider in found:
        bound = editor.array(decider.input[1]) if decider is not None and decider.op_type in _NEAREST else None
        if decider is not None and bound is not None and bound.dtype.kind == "f":
            limits = np.finfo(bound.dtype)
            never = limits.max if decider.op_type.startswith("Greater") else limits.min
            decider.input[1] = editor.constant(np.full_like(bound, never), decided, "never")
            continue
        shut = editor.new_name(f"{decided}_never")
        place = next(number for number, node in enumerate(made.graph.node) if decided in node.output)
        for node in list(made.graph.node)[place + 1 :]:
            rename_reads(node, {decided: shut})
        no = editor.constant(np.array(False), "never")
        made.graph.node.insert(place + 1, helper.make_node("And", [decided, no], [shut], name=shut))
    return made


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


def write_branches(proto: onnx.ModelProto, *, gathers: bool = False) -> int:
    """Put what only undecided samples need into branches, in place. Returns how many selections became an `If`.

    For any batch the outputs are the same as before: the branch is taken where every sample is decided, and selects otherwise. gathers: in the branch only the undecided samples are computed, where
    every tensor that it reads is known to hold one row a sample; which is worth it where calls hold several.
    """
    graph = proto.graph
    if not any(selects(node) for node in graph.node):
        return 0
    known = deduced(skeleton_of(proto))
    writer = _Writer(proto, known.shapes, known.types, _rows_of_samples(proto) if gathers else frozenset())
    count = 0
    while found := next(iter(selections(graph)), None):
        writer.write(graph, found)
        count += 1
        count += writer.within(graph.node)
    return count


class _Writer:
    """rows: tensors known to hold one row a sample, none where all samples are computed."""

    def __init__(
        self, proto: onnx.ModelProto, shapes: dict[str, Shape], types: dict[str, int], rows: frozenset[str]
    ) -> None:
        self._editor = GraphEditor(proto.graph)
        self._shapes, self._types, self._rows = shapes, types, rows

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
        decider = _decider(graph, selection)
        decision, condition = self._condition(selection.decided, decider)
        if selection.decided in decision[0].input:  # it is read in front of the branch
            decider = None
        decided, undecided = self._branches(graph, selection, moved, name, decider)
        moved |= {id(decider)}
        results = [node.output[0] for node in selection.selects]
        # The nodes of a graph stand in the order in which they run: behind all that the branch reads, before all that read its results.
        every = list(graph.node)  # kept, or ids would be given away again
        place = max((n for n, node in enumerate(every) if id(node) in moved), default=0)
        late = _readers(every[:place], set(results)) - moved
        nodes = [
            *(node for node in every[: place + 1] if id(node) not in moved | late),
            *decision,
            helper.make_node("If", [condition], results, name=name, then_branch=decided, else_branch=undecided),
            *(node for node in every[: place + 1] if id(node) in late),
            *every[place + 1 :],
        ]
        kept = [copied(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)

    def _condition(self, decided: str, decider: onnx.NodeProto | None) -> tuple[list[onnx.NodeProto], str]:
        """Whether every sample is decided, as the one truth value that an If takes: by the sample that is nearest to not being so where all are held against one bound."""
        least, all_decided = (self._editor.new_name(f"{decided}_{part}") for part in ("least", "all"))
        bound = self._editor.array(decider.input[1]) if decider is not None and decider.op_type in _NEAREST else None
        if decider is not None and bound is not None and bound.size == 1:
            one = self._editor.constant(bound.reshape(()), decider.input[1], "bound")
            return [
                helper.make_node(_NEAREST[decider.op_type], [decider.input[0]], [least], keepdims=0, name=least),
                helper.make_node(decider.op_type, [least, one], [all_decided], name=all_decided),
            ], all_decided
        as_number = self._editor.new_name(f"{decided}_number")
        return [
            helper.make_node("Cast", [decided], [as_number], to=onnx.TensorProto.FLOAT, name=as_number),
            helper.make_node("ReduceMin", [as_number], [least], keepdims=0, name=least),
            helper.make_node("Cast", [least], [all_decided], to=onnx.TensorProto.BOOL, name=all_decided),
        ], all_decided

    def _branches(
        self, graph: onnx.GraphProto, selection: Selection, moved: set[int], name: str, decider: onnx.NodeProto | None
    ) -> tuple[onnx.GraphProto, onnx.GraphProto]:
        """decider: what makes the decisions by sample, where the branch for the undecided alone reads them."""
        inside = [copied(node) for node in graph.node if id(node) in moved]
        inside = self._with_own_copies(graph, inside, moved)
        gathered = self._gathered(inside, selection, name) if self._rows else None
        inside = [*([copied(decider)] if decider is not None else []), *(inside if gathered is None else gathered)]
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

    def _gathered(self, inside: list[onnx.NodeProto], selection: Selection, name: str) -> list[onnx.NodeProto] | None:
        """The branch on the undecided samples' rows of what it reads, its results put back; None where it reads what may not be rows of samples."""
        own = {output for node in inside for output in node.output}
        ends = {node.output[0] for node in selection.selects}
        body = [node for node in inside if node.output[0] not in ends]
        taken = {one for node in body for one in reads(node)} - own - self._editor.stored.keys()
        results = [node.input[2] for node in selection.selects]
        # What rows of samples alone went into has as many of them, unless its first axis has a size of its own.
        is_fixed = any((self._shapes.get(one) or (None,))[0] is not None for one in results)
        if is_fixed or not {*taken, *(node.input[1] for node in selection.selects)} <= self._rows:
            return None
        new = self._editor.new_name
        flat, left, rows, places = (new(f"{name}_{part}") for part in ("decided", "left", "rows", "places"))
        minus = self._editor.constant(np.array([-1], np.int64), "branch", "all")
        made = [
            helper.make_node("Reshape", [selection.decided, minus], [flat], name=flat),
            helper.make_node("Not", [flat], [left], name=left),
            helper.make_node("NonZero", [left], [places], name=places),
            helper.make_node("Reshape", [places, minus], [rows], name=rows),
        ]
        renamed: dict[str, str] = {}
        for tensor in sorted(taken):
            renamed[tensor] = new(f"{tensor}_left")
            made.append(helper.make_node("Gather", [tensor, rows], [renamed[tensor]], name=renamed[tensor], axis=0))
        for node in body:
            rename_reads(node, renamed)
        at = new(f"{name}_at")
        made += [
            *body,
            helper.make_node(
                "Reshape", [rows, self._editor.constant(np.array([-1, 1], np.int64), "branch", "column")], [at], name=at
            ),
        ]
        for node in selection.selects:
            put = helper.make_node("ScatterND", [node.input[1], at, node.input[2]], [node.output[0]], name=node.name)
            made.append(put)
        return made

    def _typed(self, name: str, like: str) -> onnx.ValueInfoProto:
        shape = self._shapes.get(like)
        sizes = None if shape is None else [None, *shape[1:]]
        return helper.make_tensor_value_info(name, self._types.get(like, onnx.TensorProto.FLOAT), sizes)


def _rows_of_samples(proto: onnx.ModelProto) -> frozenset[str]:
    """Tensors whose first axis is called as the first one of all inputs is: nothing else can stand in for it."""
    firsts = {
        value.type.tensor_type.shape.dim[0].dim_param for value in proto.graph.input if value.type.tensor_type.shape.dim
    }
    if len(firsts) != 1 or "" in firsts:
        return frozenset()
    inferred = onnx.shape_inference.infer_shapes(skeleton_of(proto)).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return frozenset(
        value.name
        for value in values
        if len(dims := value.type.tensor_type.shape.dim) > 1 and dims[0].dim_param in firsts
    )


_NEAREST = {
    "Greater": "ReduceMin", "GreaterOrEqual": "ReduceMin", "Less": "ReduceMax", "LessOrEqual": "ReduceMax",
}  # fmt: skip
"""By comparison, how the number is found that is the last to keep it."""


def _decider(graph: onnx.GraphProto, selection: Selection) -> onnx.NodeProto | None:
    """The node that makes a selection's decisions; None where something else reads them too."""
    ends = {node.output[0] for node in selection.selects}
    others = [node for node in graph.node if not ends & set(node.output)]
    is_read = any(selection.decided in reads(node) for node in others)
    if is_read or any(output.name == selection.decided for output in graph.output):
        return None
    return next((node for node in others if selection.decided in node.output), None)


def _readers(nodes: Iterable[onnx.NodeProto], tensors: set[str]) -> set[int]:
    """Nodes that depend on tensors."""
    found: set[int] = set()
    for node in nodes:
        if tensors & set(reads(node)):
            found.add(id(node))
            tensors = tensors | set(node.output)
    return found
