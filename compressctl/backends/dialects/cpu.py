"""Q/DQ as processors run it fast, in ONNX Runtime and OpenVINO alike.

Unsigned activations (signed on ARM, whose dot products multiply signed with signed), signed weights per output channel, int32 biases, a Q on every convolution's output, Relu and Clip
inside the output's range. Source: ONNX Runtime, qdq_selectors.cc and the quantization guide's data type advice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import dequantized
from compressctl.core.model import OnnxModel
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import bias_codes, bias_scale, stored_as, weight_codes
from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import GraphIndex, copied, index, reads, rename_reads
from compressctl.graph.sites import Kind, Site, find_sites, fits_kernel
from compressctl.graph.tensors import copy_of


def emit(model: OnnxModel, target: Target) -> onnx.ModelProto:
    """The model's float graph with its plan written into it as QuantizeLinear and DequantizeLinear nodes.

    A node of the plan's `float_nodes` stays float, and so does what needs an integer neighbour that it no longer has.
    """
    emitted = copy_of(model.body)
    if model.quant is None or not (model.quant.activations or model.quant.weights):
        return emitted
    graph = emitted.graph
    dtype = "int8" if target.profile == "arm64" else "uint8"
    editor = GraphEditor(graph)
    writer = _Writer(editor, index(model.body.graph), model.quant, dtype, target.backend == "openvino")
    sites = {site.node: site for site in active_sites(model, target)}
    folded = {site.folded for site in sites.values() if site.folded}
    read = {tensor for site in sites.values() for tensor in site.inputs}
    for node in list(graph.node):
        if node.name in folded:
            continue
        if node.name in sites:
            writer.site(node, sites[node.name])
        elif (
            target.backend == "onnxruntime" and node.op_type in _REQUANTIZED and _leads_to(read, node, writer.looked_up)
        ):
            writer.kept_float(node)
        else:
            writer.plain(node)
    writer.finish()
    return emitted


def active_sites(model: OnnxModel, target: Target) -> list[Site]:
    """What runs on integers under the model's plan.

    OpenVINO moves Q and DQ through the graph on its own and fuses any activation behind a convolution into it. So its outputs
    need no Q, a gate such as x * sigmoid(x) is better left to that fusion, and so is a product of two activations, whose
    transpositions it would otherwise do in float between conversions.
    """
    if model.quant is None:
        return []
    found = find_sites(model.body.graph, model.quant.float_nodes)
    sites = [site for site in found if is_active(site, model.quant)]
    if target.backend != "openvino":
        return sites
    looked_up = index(model.body.graph)
    return [
        replace(site, needs_output=False)
        for site in sites
        if not _left_to_openvino(site) and not any(_joins_maxima(tensor, looked_up) for tensor in site.inputs)
    ]


_KEEPS_VALUES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}


def _joins_maxima(tensor: str, looked_up: GraphIndex, depth: int = 8) -> bool:
    """Whether it is a concatenation of what ReduceMax makes with something else, or a maximum that goes into one: quantized there, OpenVINO 2026.4 rounds the
    maxima to whole numbers (tests/backends/test_openvino.py holds the least graph that shows it)."""
    maker = looked_up.producers.get(tensor)
    if maker is None or depth == 0:
        return False
    if maker.op_type == "Concat":
        return len(maker.input) > 1 and any(_is_maximum(name, looked_up) for name in maker.input)
    if _is_maximum(tensor, looked_up):
        return any(reader.op_type == "Concat" for reader in _readers_of_values(tensor, looked_up))
    return maker.op_type in _KEEPS_VALUES and _joins_maxima(maker.input[0], looked_up, depth - 1)


def _is_maximum(tensor: str, looked_up: GraphIndex) -> bool:
    maker = looked_up.producers.get(tensor)
    while maker is not None and maker.op_type in _KEEPS_VALUES:
        maker = looked_up.producers.get(maker.input[0])
    return maker is not None and maker.op_type == "ReduceMax"


def _readers_of_values(tensor: str, looked_up: GraphIndex) -> Iterator[onnx.NodeProto]:
    for reader in looked_up.consumers.get(tensor, []):
        if reader.op_type in _KEEPS_VALUES:
            yield from _readers_of_values(reader.output[0], looked_up)
        else:
            yield reader


def _left_to_openvino(site: Site) -> bool:
    return site.op in ("Mul", "Sigmoid", "LeakyRelu") or (site.kind is Kind.MULTIPLY and site.weight is None)


def is_active(site: Site, plan: QuantPlan) -> bool:
    """Whether the plan says everything about a site that running it on integers takes."""
    tensors = (*site.inputs, *([site.output] if site.needs_output else []))
    known = all(tensor in plan.activations for tensor in tensors)
    weight = plan.weights.get(site.weight or "")
    multiplies = site.weight is None or (weight is not None and fits_kernel(site.weight_axis, weight))
    return known and multiplies and _keeps_bounds(site, plan)


def _keeps_bounds(site: Site, plan: QuantPlan) -> bool:
    """Whether the output's codes can hold nothing that the folded Relu or Clip would have cut off below."""
    if site.folded is None or not site.needs_output or not np.isfinite(site.clip[0]):
        return True
    quant = plan.activations[site.output]
    low = (np.iinfo(quant.dtype).min - float(quant.zero_point)) * float(quant.scale)
    return low >= site.clip[0] - 0.5 * float(quant.scale)


_REQUANTIZED = {"Conv", "ConvTranspose", "Gemm"}
"""What ONNX Runtime quantizes on its own, per tensor, when it finds float weights between a DQ and a Q.

Source: ONNX Runtime, weight_bias_quantization.cc, from release 1.21 on.
"""


def _leads_to(tensors: set[str], node: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    """Whether a node's output is one of the tensors, perhaps past a Relu or Clip."""
    output = node.output[0]
    while output not in tensors:
        reader = looked_up.only_consumer(output)
        if reader is None or reader.op_type not in ("Relu", "Clip"):
            return False
        output = reader.output[0]
    return True


@dataclass
class _Writer:
    """Collects the new nodes of one graph; the graph changes in `finish`."""

    editor: GraphEditor
    looked_up: GraphIndex
    plan: QuantPlan
    activation_dtype: str
    shared: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    _coded: set[str] = field(default_factory=set)
    _floated: set[str] = field(default_factory=set)
    _readers: int = 0
    _on_grid: set[str] = field(default_factory=set)
    _shared: dict[str, str] = field(default_factory=dict)

    def site(self, node: onnx.NodeProto, site: Site) -> None:
        written = copied(node)
        if site.op == "Pad" and not self.shared:
            self._pad_codes(written, site)
            return
        for position, name in enumerate(node.input):
            if name in site.inputs:
                written.input[position] = self._read(name)
        if site.weight is not None:
            written.input[1] = self._weight(site)
        if site.bias is not None:
            written.input[2] = self._bias(site)
        self.nodes.append(written)
        if site.needs_output:
            self._emit_output(written, site)
        elif site.folded:
            self._restore_folded(site)
        elif self.shared and self._stays_on_grid(site):
            self._on_grid.add(site.output)

    def plain(self, node: onnx.NodeProto) -> None:
        """A node left in float reads the float values of tensors that exist only as codes."""
        written = copied(node)
        rename_reads(
            written,
            {name: self._read(name) for name in reads(node) if name in self._coded and name not in self._floated},
        )
        self.nodes.append(written)
        self._floated.update(node.output)

    def kept_float(self, node: onnx.NodeProto) -> None:
        """A node left in float between codes, with a LeakyRelu of slope 1 behind it.

        That is the identity, which ONNX Runtime fuses into the node; without it the runtime would quantize the float
        weights after all, per tensor. See _REQUANTIZED.
        """
        written = copied(node)
        output = node.output[0]
        written.output[0] = inner = self.editor.name(output, "kept_float")
        self.plain(written)
        name = self.editor.name(node.name, "keeps_float")
        self.nodes.append(helper.make_node("LeakyRelu", [inner], [output], name, alpha=1.0))
        self._floated.add(output)

    def finish(self) -> None:
        graph = self.editor.graph
        for output in graph.output:
            if output.name in self._coded and output.name not in self._floated:
                self._dequantize(output.name, output.name)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        self.editor.close()

    def _stays_on_grid(self, site: Site) -> bool:
        """Whether the output's values are ones that its codes would hold exactly, since its inputs' are."""
        if site.kind is not Kind.MOVE and site.op != "Concat":
            return False
        known = [self.plan.activations.get(tensor) for tensor in (*site.inputs, site.output)]
        first = known[0]
        return first is not None and all(
            quant is not None and quant.scale == first.scale and quant.zero_point == first.zero_point for quant in known
        )

    def _emit_output(self, written: onnx.NodeProto, site: Site) -> None:
        """The site's output, folded nodes included, as codes. A graph output is given back under its name in `finish`."""
        written.output[0] = raw = self.editor.name(site.output, "raw")
        self._quantize(raw, site.output)

    def _restore_folded(self, site: Site) -> None:
        """A float output has no codes whose range could stand for the Relu: keep it."""
        folded = next(node for node in self.editor.graph.node if node.name == site.folded)
        self.plain(folded)

    def _pad_codes(self, written: onnx.NodeProto, site: Site) -> None:
        """Pad on the codes themselves, with the zero point: exact, and in integers where no Q/DQ fusion knows Pad."""
        source = site.inputs[0]
        self._ensure_codes(source)
        written.input[0] = self._codes(source)
        pads, axes = written.input[1], list(written.input[3:])
        del written.input[:]
        written.input.extend([self._codes(source), pads, self._parameters(source)[1], *axes])
        written.output[0] = self._codes(site.output)
        self.nodes.append(written)
        self._parameters(site.output)
        self._coded.add(site.output)

    def _read(self, tensor: str) -> str:
        """A DequantizeLinear for one reader: ONNX Runtime matches patterns in which each reader has its own.

        OpenVINO wants one for all, and none behind what only moves or joins values of one scale.
        """
        if tensor in self._on_grid:
            return tensor
        self._ensure_codes(tensor)
        if self.shared:
            if tensor not in self._shared:
                self._shared[tensor] = self._dequantize(tensor, self.editor.name(tensor, "DQ"))
            return self._shared[tensor]
        self._readers += 1
        return self._dequantize(tensor, self.editor.new_name(f"{tensor}_DQ{self._readers}"))

    def _ensure_codes(self, tensor: str) -> None:
        if tensor in self._coded:
            return
        self._quantize(tensor, tensor)
        self._floated.add(tensor)

    def _quantize(self, values: str, tensor: str) -> None:
        node = helper.make_node("QuantizeLinear", [values, *self._parameters(tensor)], [self._codes(tensor)])
        node.name = self.editor.name(tensor, "Q")
        self.nodes.append(node)
        self._coded.add(tensor)

    def _dequantize(self, tensor: str, output: str) -> str:
        node = helper.make_node("DequantizeLinear", [self._codes(tensor), *self._parameters(tensor)], [output])
        node.name = self.editor.name(output, "node")
        self.nodes.append(node)
        return output

    def _codes(self, tensor: str) -> str:
        return self.editor.name(tensor, "codes")

    def _parameters(self, tensor: str) -> tuple[str, str]:
        quant = stored_as(self.plan.activations[tensor], self.activation_dtype)
        return (
            self.editor.constant(np.asarray(quant.scale, dtype=np.float32), tensor, "scale"),
            self.editor.constant(np.asarray(quant.zero_point, dtype=quant.dtype), tensor, "zero_point"),
        )

    def _weight(self, site: Site) -> str:
        values = self.looked_up.array(site.weight or "")
        assert values is not None
        assert site.weight is not None
        quant = self.plan.weights[site.weight]
        return self._dequantized((site.weight,), weight_codes(values, quant), quant, (site.node, site.weight))

    def _bias(self, site: Site) -> str:
        values = self.looked_up.array(site.bias or "")
        weight = self.plan.weights[site.weight or ""]
        assert values is not None
        scale = bias_scale(self.plan.activations[site.inputs[0]], weight)
        quant = TensorQuant("int32", scale, np.zeros(scale.shape, dtype=np.int32), axis=0 if scale.ndim else None)
        return self._dequantized((site.node, "bias"), bias_codes(values, scale), quant, (site.node, "bias"))

    def _dequantized(self, of: tuple[str, ...], codes: np.ndarray, quant: TensorQuant, reader: tuple[str, ...]) -> str:
        output = self.editor.name(*reader, "DQ")
        self.nodes.append(dequantized(of, codes, quant, output, self.editor))
        return output
