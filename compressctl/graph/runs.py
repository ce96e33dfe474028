"""How often the bodies inside a graph (If, Loop, Scan) run in one call, and the shapes of their tensors then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.graph.constants import bodies, node_name
from compressctl.graph.fold_shapes import fold_shapes
from compressctl.graph.index import attribute, names_read
from compressctl.graph.open_axes import sizes_of
from compressctl.graph.shapes import LARGEST_READ, Deduced, Shape, deduced, fix, skeleton_of
from compressctl.graph.tensors import from_array, to_array

_Values = Mapping[str, onnx.TensorProto]


@dataclass(frozen=True)
class Runs:
    """times: how often a graph runs in one call, None where only running the model tells. shapes: as far as they are known."""

    shapes: Mapping[str, Shape]
    times: int | None


def runs_of(
    model: onnx.ModelProto,
    sizes: Mapping[str, int] | None,
    inputs: Mapping[str, Sequence[int]] | None,
    values: Mapping[str, np.ndarray],
) -> dict[str, Runs]:
    """By the path of each scope, see `constants.scopes`. sizes, inputs: as in `shapes`. values: of inputs that are always the same."""
    skeleton = skeleton_of(model)
    fix(skeleton.graph, sizes_of(model.graph, sizes, inputs), inputs or {})
    _set(skeleton.graph, {name: from_array(array, name) for name, array in values.items()})
    known = deduced(skeleton)
    return {"": Runs(known.shapes, 1), **dict(_inside(known, "", 1, {}, {}))}


def _set(graph: onnx.GraphProto, values: _Values) -> None:
    """Make constants of inputs whose values are known."""
    kept = [value for value in graph.input if value.name not in values]
    graph.initializer.extend(values[value.name] for value in graph.input if value.name in values)
    del graph.input[:]
    graph.input.extend(kept)


def _inside(
    known: Deduced, path: str, times: int | None, outer: _Values, around: Mapping[str, Shape]
) -> Iterator[tuple[str, Runs]]:
    """Of a graph that has bodies, of these, and of theirs. times: of the graph itself. outer, around: constants and shapes around it."""
    if not any(True for node in known.skeleton.graph.node for _ in bodies(node)):
        return
    paths: dict[str, str] = {}
    known, taken = _with_taken_branches(known, path, paths, outer)
    mine = Runs({**around, **known.shapes}, times)
    yield path, mine
    for inner, is_taken in taken.items():
        yield inner, mine if is_taken else Runs({}, 0)
    graph = known.skeleton.graph
    values = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    for node in graph.node:
        for name, body in bodies(node):
            here = _times(node, name, body, known.shapes, values)
            found = _alone(body, _formal_shapes(node, known.shapes), known, values)
            if node.op_type == "Loop":
                found = _as_each_run_finds_it(node, body, found, known, values)
            total = 0 if 0 in (here, times) else None if here is None or times is None else here * times
            inner = _path(_place(node, path, paths), node, name)
            yield inner, Runs({**mine.shapes, **found.shapes}, total)
            yield from _inside(found, inner, total, values, mine.shapes)


def _place(node: onnx.NodeProto, path: str, paths: Mapping[str, str]) -> str:
    return paths.get(next(iter(node.output), ""), path)


def _path(place: str, node: onnx.NodeProto, name: str) -> str:
    return "/".join(part for part in (place, node_name(node), name) if part)


def _with_taken_branches(
    known: Deduced, path: str, paths: dict[str, str], outer: _Values
) -> tuple[Deduced, dict[str, bool]]:
    """The graph with each branch that is known to be taken in place of its If, so that what comes after has that one's shapes.

    paths: by output of a node, where a node of such a branch really stands; filled here. Also the scopes of all branches that
    were decided about, and whether each is taken.
    """
    taken: dict[str, bool] = {}
    is_new = True
    while is_new:
        graph, is_new, nodes = known.skeleton.graph, False, []
        fold_shapes(known.skeleton, known.shapes, LARGEST_READ)
        values = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
        names = {*values, *known.shapes, *(name for node in graph.node for name in node.output)}
        for node in graph.node:
            branches = dict(bodies(node)) if node.op_type == "If" else {}
            chosen = next((name for name, body in branches.items() if _times(node, name, body, {}, values) == 1), None)
            if chosen is None or _own(branches[chosen]) & names:
                nodes.append(node)
                continue
            is_new, place = True, _place(node, path, paths)
            for name, body in branches.items():
                inner = _path(place, node, name)
                taken[inner] = name == chosen
                if name != chosen:
                    taken.update((below, False) for below in _below(body, inner))
            branch = skeleton_of(_model(branches[chosen], known.skeleton)).graph
            graph.initializer.extend(branch.initializer)
            nodes += branch.node
            names |= _own(branch)
            paths.update((output, _path(place, node, chosen)) for inside in branch.node for output in inside.output)
            nodes += [
                onnx.helper.make_node("Identity", [made.name], [output])
                for made, output in zip(branch.output, node.output, strict=False)
                if output
            ]
        if is_new:
            kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
            del graph.node[:]
            graph.node.extend(kept)
            known = deduced(known.skeleton)
    return known, taken


def _below(body: onnx.GraphProto, path: str) -> Iterator[str]:
    """Every scope inside a body."""
    for node in body.node:
        for name, inside in bodies(node):
            yield _path(path, node, name)
            yield from _below(inside, _path(path, node, name))


def _own(body: onnx.GraphProto) -> set[str]:
    """The tensors that a body makes or stores."""
    stored = {value.name for value in (*body.input, *body.initializer)}
    return stored | {name for node in body.node for name in node.output if name}


def _model(graph: onnx.GraphProto, like: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto(ir_version=like.ir_version, opset_import=like.opset_import, graph=graph)


def _times(
    node: onnx.NodeProto, name: str, body: onnx.GraphProto, known: Mapping[str, Shape], values: _Values
) -> int | None:
    try:
        return _counted(node, name, body, known, values)
    except (IndexError, ValueError):  # a node that is not as ONNX says
        return None


def _counted(
    node: onnx.NodeProto, name: str, body: onnx.GraphProto, known: Mapping[str, Shape], values: _Values
) -> int | None:
    if node.op_type == "If":
        chosen = _value(node, 0, values)
        return None if chosen is None else int(bool(chosen.reshape(-1)[0]) == (name == "then_branch"))
    if node.op_type == "Loop":
        most, first = _value(node, 0, values), _value(node, 1, values)
        if first is not None and not first.reshape(-1)[0]:
            return 0
        goes_on = (not _given(node, 1) or first is not None) and _never_stops(body)
        return max(0, int(most.reshape(-1)[0])) if most is not None and goes_on else None
    if node.op_type == "Scan":
        count, axes = _scanned(node)
        shape = known.get(node.input[len(node.input) - count])
        return None if shape is None else shape[axes[0]]
    return None


def _scanned(node: onnx.NodeProto) -> tuple[int, list[int]]:
    """How many of a Scan's last inputs it goes through, and along which axis of each."""
    count, axes = attribute(node, "num_scan_inputs", 1), attribute(node, "scan_input_axes")
    assert isinstance(count, int)
    return count, [int(axis) for axis in axes] if isinstance(axes, list) else [0] * count


def _value(node: onnx.NodeProto, position: int, values: _Values) -> np.ndarray | None:
    tensor = values.get(node.input[position]) if len(node.input) > position else None
    try:
        return None if tensor is None else to_array(tensor)
    except ValueError:  # a large constant, whose data is not here
        return None


def _given(node: onnx.NodeProto, position: int) -> bool:
    return len(node.input) > position and bool(node.input[position])


def _never_stops(body: onnx.GraphProto) -> bool:
    """Whether a loop's condition is handed on as it is, or is always true."""
    producers = {name: node for node in body.node for name in node.output}
    constants = {tensor.name: tensor for tensor in body.initializer}
    name = body.output[0].name
    while (node := producers.get(name)) is not None and node.op_type in ("Identity", "Cast"):
        name = node.input[0]
    if name == body.input[1].name:
        return True
    tensor = constants.get(name)
    if node is not None and node.op_type == "Constant":
        tensor = attribute(node, "value", None)
    return isinstance(tensor, onnx.TensorProto) and bool(to_array(tensor).all())


def _as_each_run_finds_it(
    node: onnx.NodeProto, body: onnx.GraphProto, first: Deduced, known: Deduced, values: _Values
) -> Deduced:
    """A loop's body; what is carried from run to run has a shape only where each run keeps it. first: at the first run."""
    grown = {
        place
        for place, (before, after) in enumerate(zip(body.input[2:], body.output[1:], strict=False), 2)
        if first.shapes.get(before.name) != first.shapes.get(after.name)
    }
    if not grown:
        return first
    given = _formal_shapes(node, known.shapes)
    return _alone(body, [None if place in grown else shape for place, shape in enumerate(given)], known, values)


def _formal_shapes(node: onnx.NodeProto, known: Mapping[str, Shape]) -> list[Shape | None]:
    """Of a body's own inputs, in their order."""
    given = [known.get(name) for name in node.input]
    if node.op_type == "Loop":
        return [(), (), *given[2:]]
    if node.op_type == "Scan":
        count, axes = _scanned(node)
        states, scanned = given[: len(given) - count], given[len(given) - count :]
        without = [
            tuple(size for place, size in enumerate(shape) if place != axis % len(shape)) if shape else None
            for shape, axis in zip(scanned, axes, strict=False)
        ]
        return [*states, *without]
    return []


def _alone(body: onnx.GraphProto, given: Sequence[Shape | None], known: Deduced, values: _Values) -> Deduced:
    """given: shapes of the body's own inputs."""
    graph = onnx.GraphProto()
    graph.CopyFrom(body)
    graph.name = graph.name or "body"
    for value, shape in zip(graph.input, given, strict=False):
        _state(value, value.type.tensor_type.elem_type, shape)
    for name in sorted(names_read(body.node) - _own(body)):
        if name in values:
            graph.initializer.add().CopyFrom(values[name])
        elif name in known.shapes:
            _state(graph.input.add(name=name), known.types.get(name, onnx.TensorProto.FLOAT), known.shapes[name])
    return deduced(skeleton_of(_model(graph, known.skeleton)))


def _state(value: onnx.ValueInfoProto, kind: int, shape: Shape | None) -> None:
    tensor = value.type.tensor_type
    tensor.elem_type = kind
    tensor.ClearField("shape")
    if shape is not None:
        tensor.shape.SetInParent()
        for size in shape:
            dim = tensor.shape.dim.add()
            if size is not None:
                dim.dim_value = size
