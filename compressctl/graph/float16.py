"""Float32 graphs in 16-bit floats, with what cannot be left alone: for runtimes that take the types that a graph says."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.core.patterns import matches
from compressctl.graph.custom_nodes import is_custom
from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import all_graphs, all_nodes, attribute, bodies, captured, copied, rename_reads
from compressctl.graph.schema import Schema, opsets_of, schema_of
from compressctl.graph.tensors import copy_of, from_array, to_array

OLDEST_OPSET = 19
"""QuantizeLinear and DequantizeLinear take float16 from here on."""

_NUMPY: dict[int, type] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
}

_LARGEST = 65504.0
_SMALLEST_NORMAL = 2.0**-14


def to_half(
    model: onnx.ModelProto, single: Sequence[str] = (), *, kind: int = TensorProto.FLOAT16, keep_io: bool = True
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy of a canonical graph in 16-bit floats, bodies included, and why each node that stayed float32 did.

    single: patterns over names and operator types of nodes that stay. kind: FLOAT16 or BFLOAT16. keep_io: the inputs and outputs
    stay float32. What an operator may be given in 16 bits says its schema in the graph's opset. In float16 nodes stay too
    that have a constant beyond float16's range or a quantization scale below its smallest normal number, which would lose its
    digits.
    """
    typed = onnx.shape_inference.infer_shapes(model)
    made = copy_of(model)
    graph = made.graph
    writer = _Writer(GraphEditor(graph), _float_tensors(typed.graph), kind, opsets_of(model), single)
    for tensor in graph.input:
        is_float = tensor.name in writer.floats and not keep_io
        writer.home[tensor.name] = kind if is_float else TensorProto.FLOAT
        if is_float:
            tensor.type.tensor_type.elem_type = kind
    writer.write_graph(graph, TensorProto.FLOAT if keep_io else kind)
    writer.editor.close()
    _rename_halves(writer)
    return made, writer.kept


def _rename_halves(writer: _Writer) -> None:
    """Constants that exist in 16 bits alone have the names that they had."""
    editor = writer.editor
    names = {half: name for name, half in writer.halves.items() if half in editor.stored and name not in editor.stored}
    for half, name in names.items():
        editor.stored[half].name = name
    for node in editor.graph.node:
        rename_reads(node, names)


def store_half(
    model: onnx.ModelProto, single: Sequence[str] = (), *, kind: int = TensorProto.FLOAT16
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy of a canonical graph that stores its float constants in 16 bits and computes in float32, and why each constant that
    was not did not.

    Runtimes fold the Cast behind each constant when they load the file. single: patterns over names and operator types of
    nodes, and names of constants, that keep float32. Constants of fewer than 16 elements stay: a node would cost more. So do
    the scales of codes: every weight of a channel would move with its scale.
    """
    made = copy_of(model)
    graph = made.graph
    editor = GraphEditor(graph)
    readers: dict[str, list[str]] = {}
    scales: set[str] = set()
    for node in all_nodes(graph):
        for name in node.input:
            readers.setdefault(name, []).extend((node.name, node.op_type))
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scales.add(node.input[1])
    kept: dict[str, str] = {}
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < _FEWEST:
            continue
        values = to_array(tensor)
        names = [tensor.name, *readers.get(tensor.name, [])]
        if any(matches(pattern, names) for pattern in single):
            kept[tensor.name] = "asked for"
        elif tensor.name in scales:
            kept[tensor.name] = "the scale of codes"
        elif kind == TensorProto.FLOAT16 and np.abs(values).max() > _LARGEST:
            kept[tensor.name] = "beyond float16's range"
        else:
            half, cast = editor.name(tensor.name, "half"), editor.name(tensor.name, "at_load")
            casts.append(helper.make_node("Cast", [half], [tensor.name], cast, to=TensorProto.FLOAT))
            tensor.CopyFrom(from_array(values.astype(_NUMPY[kind]), half))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return made, kept


_FEWEST = 16


def to_single(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a canonical graph in which what was float16 or bfloat16 is float32; the model itself where nothing is.

    Inputs and outputs keep their types, behind Casts.
    """
    graph = model.graph
    values = [value for place in all_graphs(graph) for value in (*place.input, *place.output, *place.value_info)]
    types = {tensor.data_type for tensor in graph.initializer} | {value.type.tensor_type.elem_type for value in values}
    if not types & set(_HALVES):
        return model
    floats = _float_tensors(onnx.shape_inference.infer_shapes(model).graph, (TensorProto.FLOAT, *_HALVES))
    made = copy_of(model)
    graph, editor = made.graph, GraphEditor(made.graph)
    for tensor in graph.initializer:
        if tensor.data_type in _HALVES:
            tensor.CopyFrom(from_array(to_array(tensor).astype(np.float32), tensor.name))
    for node in all_nodes(graph):
        for old in _HALVES:
            _retype(node, old, TensorProto.FLOAT)
        if node.op_type == "Cast" and node.input[0] in floats and attribute(node, "to") == TensorProto.FLOAT:
            node.op_type = "Identity"
            del node.attribute[:]
    for place in all_graphs(graph):
        del place.value_info[:]
        if place is not graph:
            for value in (*place.input, *place.output):
                if value.type.tensor_type.elem_type in _HALVES:
                    value.type.tensor_type.elem_type = TensorProto.FLOAT
    _cast_io(
        editor, {value.name for value in (*graph.input, *graph.output) if value.type.tensor_type.elem_type in _HALVES}
    )
    return made


def half_io(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph whose float32 inputs and outputs are float16, behind Casts."""
    made = copy_of(model)
    stored = {tensor.name for tensor in made.graph.initializer}
    floats = [
        value
        for value in (*made.graph.input, *made.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in stored
    ]
    for value in floats:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    _cast_io(GraphEditor(made.graph), {value.name for value in floats})
    return made


_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def in_floats_of(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph in the type of floats that a canonical one has: computed in 16 bits, or stored so, where that one is."""
    stored = {tensor.name: tensor.data_type for tensor in original.graph.initializer if tensor.data_type in _HALVES}
    given = {value.type.tensor_type.elem_type for value in (*original.graph.input, *original.graph.output)}
    kind = next((kind for kind in _HALVES if kind in {*stored.values(), *given}), None)
    if kind is None:
        return model
    widens = all(node.op_type == "Cast" for node in all_nodes(original.graph) if stored.keys() & set(node.input))
    return (store_half if widens and not given & set(_HALVES) else to_half)(model, kind=kind)[0]


def _cast_io(editor: GraphEditor, names: Collection[str]) -> None:
    """Let a graph that computes in float32 take and give the 16-bit floats that it says. names: of those inputs and outputs."""
    graph, casts = editor.graph, []
    inner = {name: editor.name(name, "single") for name in names}
    for node in graph.node:
        rename_reads(node, inner)
        node.output[:] = [inner.get(name, name) for name in node.output]
    for value in graph.input:
        if value.name in inner:
            name, single = editor.name(value.name, "widened"), inner[value.name]
            casts.append(helper.make_node("Cast", [value.name], [single], name, to=TensorProto.FLOAT))
    for value in graph.output:
        if value.name in inner:
            name, to = editor.name(value.name, "narrowed"), value.type.tensor_type.elem_type
            graph.node.append(helper.make_node("Cast", [inner[value.name]], [value.name], name, to=to))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _float_tensors(graph: onnx.GraphProto, kinds: Collection[int] = (TensorProto.FLOAT,)) -> set[str]:
    values = [value for place in all_graphs(graph) for value in (*place.input, *place.output, *place.value_info)]
    found = {value.name for value in values if value.type.tensor_type.elem_type in kinds}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type in kinds}


@dataclass
class _Writer:
    """floats: names of float32 tensors. home: the type in which each is made. kept: why nodes stay float32.

    halves: names of 16-bit copies, by constant.
    """

    editor: GraphEditor
    floats: Collection[str]
    kind: int
    opsets: Mapping[str, int]
    single: Sequence[str]
    home: dict[str, int] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    halves: dict[str, str] = field(default_factory=dict)
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _cast: ChainMap[tuple[str, int], str] = field(default_factory=ChainMap)

    def write_graph(self, graph: onnx.GraphProto, outputs: int) -> None:
        """outputs: the type of its float outputs."""
        around, self._nodes = self._nodes, []
        self._cast = self._cast.new_child()
        for node in graph.node:
            self._write(node)
        self._close(graph.output, outputs)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        self._nodes, self._cast = around, self._cast.parents

    def _write(self, node: onnx.NodeProto) -> None:
        written = copied(node)
        schema = schema_of(node, self.opsets)
        reason = self._must_stay(node, schema)
        if reason is not None:
            self.kept[node.name] = reason
        inputs = [
            self.kind
            if schema is not None and reason is None and schema.allows(schema.of_input(position), self.kind)
            else TensorProto.FLOAT
            for position in range(len(node.input))
        ]
        for position, name in enumerate(node.input):
            if name in self.floats and node.op_type != "Cast":
                written.input[position] = self._as(name, inputs[position])
        for position, name in enumerate(node.output):
            if name in self.floats:
                narrow = schema is not None and reason is None and schema.allows(schema.of_output(position), self.kind)
                self.home[name] = self.kind if narrow else TensorProto.FLOAT
        if reason is None:
            _retype(written, TensorProto.FLOAT, self.kind)
        for body in bodies(written):
            if reason is None:
                self._write_body(body)
        if reason is not None:
            floats = [name for name in captured(node) if name in self.floats]
            rename_reads(written, {name: self._as(name, TensorProto.FLOAT) for name in floats})
        self._nodes.append(written)

    def _write_body(self, body: onnx.GraphProto) -> None:
        for value in body.input:
            if value.name in self.floats:
                value.type.tensor_type.elem_type = self.home[value.name] = self.kind
        self.write_graph(body, self.kind)

    def _must_stay(self, node: onnx.NodeProto, schema: Schema | None) -> str | None:
        if any(matches(pattern, (node.name, node.op_type)) for pattern in self.single):
            return "asked for"
        if is_custom(node):
            return f"{node.op_type} is a library's operator"
        if schema is None:
            return f"ONNX does not say which types {node.op_type} takes"
        if not self._can_change(node, schema):
            return f"{node.op_type} takes or makes float32"
        if self.kind == TensorProto.BFLOAT16:
            # It has float32's range.
            return None
        for position, name in enumerate(node.input):
            tensor = self.editor.stored.get(name)
            if tensor is None or tensor.data_type != TensorProto.FLOAT:
                continue
            values = np.abs(to_array(tensor))
            if values.size and values.max() > _LARGEST:
                return f"{name} is beyond float16's range"
            is_scale = node.op_type in ("QuantizeLinear", "DequantizeLinear") and position == 1
            if is_scale and values.min() < _SMALLEST_NORMAL:
                return f"{name} is below float16's smallest normal number"
        return None

    def _can_change(self, node: onnx.NodeProto, schema: Schema) -> bool:
        """Whether some of its floats may have 16 bits, and those that it makes follow from what it is given or says."""
        inputs = [schema.of_input(position) for position, name in enumerate(node.input) if name in self.floats]
        outputs = [schema.of_output(position) for position, name in enumerate(node.output) if name in self.floats]
        narrow = [variable for variable in outputs if schema.allows(variable, self.kind)]
        if any(
            not value.type.HasField("tensor_type") for body in bodies(node) for value in (*body.input, *body.output)
        ):
            return False
        is_told = bool(bodies(node)) or _states(node, TensorProto.FLOAT)
        if any(variable not in inputs and not is_told for variable in narrow):
            return False
        return bool(narrow) or any(schema.allows(variable, self.kind) for variable in inputs) or not (inputs or outputs)

    def _close(self, outputs: Sequence[onnx.ValueInfoProto], wanted: int) -> None:
        """Float outputs keep their names and get the wanted type: what made them in another gets another name."""
        for output in outputs:
            if output.name not in self.floats:
                continue
            output.type.tensor_type.elem_type = wanted
            if self.home.get(output.name, TensorProto.FLOAT) == wanted:
                continue
            inner = self.editor.name(output.name, "inner")
            for node in self._nodes:
                rename_reads(node, {output.name: inner})
                node.output[:] = [inner if name == output.name else name for name in node.output]
            cast = self.editor.name(output.name, "cast")
            self._nodes.append(helper.make_node("Cast", [inner], [output.name], cast, to=wanted))

    def _as(self, name: str, wanted: int) -> str:
        tensor = self.editor.stored.get(name)
        if tensor is not None:
            if wanted == TensorProto.FLOAT:
                return name
            if name not in self.halves:
                values: np.ndarray = to_array(tensor).astype(_NUMPY[self.kind])
                self.halves[name] = self.editor.constant(values, name, "half")
            return self.halves[name]
        if self.home.get(name, TensorProto.FLOAT) == wanted:
            return name
        key = (name, wanted)
        if key not in self._cast:
            self._cast[key] = self.editor.new_name(f"{name}_{'half' if wanted == self.kind else 'single'}")
            made = self._cast[key]
            self._nodes.append(
                helper.make_node("Cast", [name], [made], self.editor.new_name(f"{made}_cast"), to=wanted)
            )
        return self._cast[key]


def _states(node: onnx.NodeProto, kind: int) -> bool:
    """Whether the node itself says that it makes such floats: a cast, a constant, random numbers."""
    return any(
        (entry.name in ("to", "dtype") and entry.i == kind)
        or (entry.name == "value" and entry.HasField("t") and entry.t.data_type == kind)
        for entry in node.attribute
    )


def _retype(node: onnx.NodeProto, old: int, new: int) -> None:
    """Types that the node states itself."""
    for entry in node.attribute:
        if entry.name in ("to", "dtype") and entry.i == old:
            entry.i = new
        elif entry.name == "value" and entry.HasField("t") and entry.t.data_type == old:
            values: np.ndarray = to_array(entry.t).astype(_NUMPY[new])
            entry.t.CopyFrom(from_array(values, entry.t.name))
