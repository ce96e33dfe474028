"""Q/DQ graphs of any exporter as a float graph and a plan: what emitting writes, read back, so that another target's
dialect can be written from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.graph.canonical import canonical
from compressctl.graph.cast_weights import as_dequantized
from compressctl.graph.codes import dequantize_codes
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.float16 import to_single
from compressctl.graph.hoist_dequantize import dequantize_first
from compressctl.graph.index import GraphIndex, all_nodes, attribute, bodies, copied, index, reads, rename_reads
from compressctl.graph.matmul_nbits import unpack, unpack_table
from compressctl.graph.qoperator_to_qdq import unfold_qlinear
from compressctl.graph.quantized import already_quantized
from compressctl.graph.tensors import copy_of
from compressctl.graph.unfold_integer import unfold_integer
from compressctl.graph.weight_nodes import RECURRENT

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_ON_CODES = {"Pad", "MaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Squeeze", "Unsqueeze"}
"""What other exporters, and our own, run on the codes themselves: it means the same on the numbers."""

_CLIPPED = {*_WEIGHTED, "Add"}


@dataclass(frozen=True)
class Absorbed:
    """model: in float, without Q and DQ. plan: their meaning. ignored: what the plan cannot hold, in words."""

    model: onnx.ModelProto
    plan: QuantPlan
    ignored: tuple[str, ...]


def is_quantized(model: onnx.ModelProto) -> bool:
    return bool(already_quantized(model))


def absorb(model: onnx.ModelProto) -> Absorbed:
    """The same function in float and what was rounded where. A range that begins at 0 behind a product becomes a Relu: its
    quantization did the Relu's work, and another dialect's may not. Bodies keep quantized weights, and lose that of activations."""
    unfolded = unfold_integer(unfold_qlinear(as_dequantized(to_single(canonical(copy_of(model))))))
    made = unfolded.model
    dequantize_first(made.graph)
    _fold_reshaped(made.graph)
    work = _Work(GraphEditor(made.graph))
    work.read(made.graph, index(made.graph))
    work.editor.close()
    plan = QuantPlan(work.activations, work.weights, _floats(made.graph, work.weights), unfolded.dynamic)
    return Absorbed(made, plan, (*unfolded.ignored, *work.ignored))


def _floats(graph: onnx.GraphProto, weights: Mapping[str, TensorQuant]) -> dict[str, str]:
    """Products with a stored weight that the file has in float: nothing before them needs an integer output for their sake."""
    stored = {tensor.name for tensor in graph.initializer}
    return {
        node.name: "its weight is in float in the file that was read"
        for node in all_nodes(graph)
        if node.op_type in _WEIGHTED and node.input[1] in stored - set(weights)
    }


@dataclass
class _Work:
    """same: tensor names that stand for another float tensor now. codes: by tensor of codes, the float tensor; quantizes: the
    QuantizeLinear that made them, until something needs it. sources: by constant that was made of codes, what it was made of:
    codes that are read in two ways stand for two constants. found, nodes, makers: of the graph that is read: its index, what is
    written for it, and the node of that that makes a tensor.
    """

    editor: GraphEditor
    activations: dict[str, TensorQuant] = field(default_factory=dict)
    weights: dict[str, TensorQuant] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    quantizes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    sources: dict[tuple[object, ...], str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    found: GraphIndex = field(init=False)

    def read(self, graph: onnx.GraphProto, found: GraphIndex) -> None:
        """Write a graph anew, in place, and the bodies in it."""
        around = self.nodes, self.makers
        self.nodes, self.makers, self.found = [], {}, found
        for node in graph.node:
            if bodies(node):
                self._keep_codes(node)
            for body in bodies(node):
                self.read(body, index(body, found))
                self.found = found
            self._node(node, is_inner=graph is not self.editor.graph)
        outputs = [output.name for output in graph.output]
        for name in outputs:
            self._give_name_back(name, outputs)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        self.nodes, self.makers = around

    def _node(self, node: onnx.NodeProto, *, is_inner: bool) -> None:
        match node.op_type:
            case "QuantizeLinear":
                self._quantize(node, is_inner=is_inner)
            case "DequantizeLinear":
                self._dequantize(node)
            case "MatMulNBits":
                self._unpack(node)
            case "GatherBlockQuantized":
                self._unpack_table(node)
            case _:
                self._other(node)

    def _add(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)
        self.makers.update(dict.fromkeys(node.output, node))

    def _quantize(self, node: onnx.NodeProto, *, is_inner: bool) -> None:
        quant = self._quant(node)
        if quant is None:
            self.ignored.append(f"{node.name}: its scale or zero point is not constant")
            self._add(self._renamed(node))
            return
        source = self._resolve(node.input[0])
        if source in self.editor.stored:
            source = self._weight(source, quant)
        self.codes[node.output[0]] = source
        self.quantizes[node.output[0]] = node
        if source in self.weights:
            return
        known = self.activations.get(source)
        if is_inner:
            self.ignored.append(f"{node.name}: it stands in a body, where activations stay in float")
            self._restore_relu(source, quant)
        elif known is None:
            self.activations[source] = quant
            self._restore_relu(source, quant)
            self._use_whole_range(source, quant)
        elif not np.array_equal(known.scale, quant.scale):
            self.ignored.append(f"{node.name}: {source} is quantized a second time with another scale")

    def _dequantize(self, node: onnx.NodeProto) -> None:
        if node.input[0] in self.codes:
            self.same[node.output[0]] = self.codes[node.input[0]]
            return
        stored, quant = self.editor.array(node.input[0]), self._quant(node)
        if stored is None or quant is None:
            self.ignored.append(f"{node.name}: what it dequantizes is neither constant nor quantized here")
            self._add(self._renamed(node))
            return
        name = self._constant(node.input[0], ("_codes", "_quantized"), quant, lambda: dequantize_codes(stored, quant))
        readers = self.found.consumers.get(node.output[0], [])
        if quant.dtype != "int32" and any(reader.op_type in {*_WEIGHTED, *RECURRENT, "Gather"} for reader in readers):
            self.weights[name] = quant
        self.same[node.output[0]] = name

    def _weight(self, source: str, quant: TensorQuant) -> str:
        """The float constant under this quantization: itself, or a copy where another reader has it quantized otherwise."""
        known = self.weights.get(source)
        if known is None or _is_same(known, quant):
            self.weights[source] = quant
            return source
        values = self.editor.array(source)
        assert values is not None
        name = self._constant(source, (), quant, lambda: values)
        self.weights[name] = quant
        return name

    def _constant(
        self, source: str, endings: tuple[str, ...], quant: TensorQuant, make: Callable[[], np.ndarray]
    ) -> str:
        """A float constant made of stored codes, under the name without the ending that says so where that is free."""
        parts = (_bytes(part) for part in (quant.scale, quant.zero_point))
        key = (source, quant.dtype, quant.axis, quant.block, *parts)
        if key not in self.sources:
            base = source
            for ending in endings:
                base = base.removesuffix(ending)
            self.sources[key] = self.editor.new_name(base, f"{base}_float")
            self.editor.store(self.sources[key], make())
        return self.sources[key]

    def _unpack(self, node: onnx.NodeProto) -> None:
        """ONNX Runtime's product with packed weights, as a MatMul and perhaps an Add."""
        found = unpack(node, self.found)
        if found is None:
            self.ignored.append(f"{node.name}: its packed weight is computed, reordered or has float zero points")
            self._add(self._renamed(node))
            return
        name = self._constant(node.input[1], ("_packed",), found[1], lambda: found[0])
        self.weights[name] = found[1]
        bias = node.input[5] if len(node.input) > 5 else ""
        output = self.editor.name(node.output[0], "without_bias") if bias else node.output[0]
        self._add(helper.make_node("MatMul", [self._resolve(node.input[0]), name], [output], node.name))
        if bias:
            added = self.editor.name(node.name, "bias")
            self._add(helper.make_node("Add", [output, self._resolve(bias)], [node.output[0]], added))

    def _unpack_table(self, node: onnx.NodeProto) -> None:
        """ONNX Runtime's lookup in a packed table, as a Gather."""
        found = unpack_table(node, self.found)
        if found is None:
            self.ignored.append(f"{node.name}: its packed table is computed, or packed along another axis")
            self._add(self._renamed(node))
            return
        name = self._constant(node.input[0], ("_table",), found[1], lambda: found[0])
        self.weights[name] = found[1]
        self._add(helper.make_node("Gather", [name, self._resolve(node.input[1])], [node.output[0]], node.name))

    def _other(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Identity" or (node.op_type == "LeakyRelu" and attribute(node, "alpha", 0.01) == 1.0):
            self.same[node.output[0]] = self._resolve(node.input[0])
            return
        written = self._renamed(node)
        if node.op_type in _ON_CODES and node.input[0] in self.codes:
            source = self.codes[node.input[0]]
            written.input[0] = source
            if node.op_type == "Pad" and len(written.input) > 2:
                written.input[2] = ""
            written.output[0] = self.editor.name(node.output[0], "float")
            self.codes[node.output[0]] = written.output[0]
            if source in self.activations:
                self.activations[written.output[0]] = self.activations[source]
        else:
            self._keep_codes(node)
        self._add(written)

    def _keep_codes(self, node: onnx.NodeProto) -> None:
        """An operator that computes on codes gets them from the QuantizeLinear that made them."""
        inner = [one for body in bodies(node) for one in all_nodes(body)]
        computing = [node, *(one for one in inner if one.op_type not in {"DequantizeLinear", *_ON_CODES})]
        for name in {name: None for one in computing for name in one.input if name in self.quantizes}:
            self._add(self._renamed(self.quantizes.pop(name)))
            self.ignored.append(f"{node.name}: {node.op_type} computes on the codes themselves")

    def _restore_relu(self, tensor: str, quant: TensorQuant) -> None:
        maker = self.makers.get(tensor)
        lowest = np.iinfo(quant.dtype).min if quant.dtype in ("uint8", "int8", "uint16", "int16") else None
        begins_at_zero = lowest is not None and bool(np.all(quant.zero_point == lowest))
        if maker is None or maker.op_type not in _CLIPPED or not begins_at_zero:
            return
        inner = self.editor.name(tensor, "before_relu")
        maker.output[list(maker.output).index(tensor)] = inner
        self.makers[inner] = maker
        self._add(helper.make_node("Relu", [inner], [tensor], self.editor.name(tensor, "relu")))

    def _use_whole_range(self, tensor: str, quant: TensorQuant) -> None:
        """Symmetric codes behind a Relu leave half of them unused, and a processor's dialect reads the Relu off the range."""
        maker = self.makers.get(tensor)
        is_symmetric = quant.dtype == "int8" and not np.any(quant.zero_point)
        if maker is not None and maker.op_type in ("Relu", "Sigmoid") and is_symmetric:
            scale = np.asarray(quant.scale * (127 / 255), np.float32)
            self.activations[tensor] = TensorQuant("uint8", scale, np.zeros((), np.uint8))

    def _give_name_back(self, output: str, outputs: Sequence[str]) -> None:
        """An output that a DQ made gets its name back: what stands for it now is called like it."""
        inner = self._resolve(output)
        if inner == output:
            return
        if inner not in self.makers or inner in outputs:
            self._add(helper.make_node("Identity", [inner], [output], self.editor.name(output, "identity")))
            return
        for node in self.nodes:
            rename_reads(node, {inner: output})
            node.output[:] = [output if name == inner else name for name in node.output]
        self.makers[output] = self.makers.pop(inner)
        del self.same[output]
        self.same[inner] = output
        if inner in self.activations:
            self.activations[output] = self.activations.pop(inner)

    def _renamed(self, node: onnx.NodeProto) -> onnx.NodeProto:
        written = copied(node)
        rename_reads(written, {name: self._resolve(name) for name in reads(node)})
        return written

    def _resolve(self, name: str) -> str:
        while name in self.same:
            name = self.same[name]
        return name

    def _quant(self, node: onnx.NodeProto) -> TensorQuant | None:
        scale = self.editor.array(node.input[1])
        point = self.editor.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if scale is None or (point is None and len(node.input) > 2 and node.input[2]):
            return None
        if point is None:
            stored = self.editor.stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
            dtype = "uint8" if stored is None else helper.tensor_dtype_to_np_dtype(stored.data_type).name
            point = np.zeros(scale.shape, dtype=np.int32)
        else:
            dtype = point.dtype.name
        block = int(attribute(node, "block_size", 0))  # type: ignore[call-overload]
        axis = int(attribute(node, "axis", 1)) if scale.size > 1 else None  # type: ignore[call-overload]
        quantized = self.editor.stored.get(self._resolve(node.input[0]))
        if axis is not None and quantized is not None:
            axis %= len(quantized.dims)
        if axis is None:
            scale, point = scale.reshape(()), point.reshape(())
        return TensorQuant(dtype, np.asarray(scale, np.float32), point, axis=axis, block=block or None)


def _is_same(quant: TensorQuant, other: TensorQuant) -> bool:
    return (quant.dtype, quant.axis, quant.block) == (other.dtype, other.axis, other.block) and all(
        np.array_equal(mine, theirs)
        for mine, theirs in ((quant.scale, other.scale), (quant.zero_point, other.zero_point))
    )


def _bytes(part: np.ndarray) -> bytes:
    return np.ascontiguousarray(part, np.float32).tobytes()


def _fold_reshaped(graph: onnx.GraphProto) -> None:
    """A packed weight that a lookup stores, in the shape of the product that shares it: a constant of its own again."""
    editor = GraphEditor(graph)

    def folded(node: onnx.NodeProto) -> Replacement:
        if node.op_type != "Reshape":
            return None
        values, shape = editor.array(node.input[0]), editor.array(node.input[1])
        readers = editor.here.consumers.get(node.output[0], [])
        if values is None or shape is None or any(reader.op_type != "MatMulNBits" for reader in readers):
            return None
        editor.store(node.output[0], values.reshape(shape))
        return []

    editor.replace_nodes(folded)
