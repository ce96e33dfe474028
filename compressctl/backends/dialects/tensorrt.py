"""Q/DQ as TensorRT takes it: explicit, symmetric, on the inputs of what multiplies and on the other branch of residual additions.

Activations are int8 with a zero point of constant zeros and one scale; weights int8 per output channel; biases stay float; no
Q/DQ between a convolution and its Relu, nor on outputs. Source: NVIDIA TensorRT documentation, "Working with quantized
types", Q/DQ placement recommendations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.dialects.weight_only import Product, dequantized, turned, weight_only_products
from compressctl.core.model import OnnxModel
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import weight_codes, weight_values
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, copied, index
from compressctl.graph.sites import Kind, Site, find_sites, fits_kernel
from compressctl.graph.tensors import copy_of
from compressctl.numerics.affine import SMALLEST_SCALE
from compressctl.numerics.grid import fit_grid

_LARGEST = 127
_LARGEST_FOUR_BIT = 7
FOUR_BIT_BLOCKS = (64, 128)
"""Source: TensorRT documentation, "Quantization schemes": INT4 needs scales per block, of 64 or 128."""

_SMALLEST_NORMAL = 2.0**-14


def emit(model: OnnxModel, target: Target) -> onnx.ModelProto:
    """The model's float graph with its plan written into it, in float32; see graph/float16.py.

    For a graph that becomes float16 scales are those that float16 holds as normal numbers, and codes are made with them.
    """
    emitted = copy_of(model.body)
    if model.quant is None or not (model.quant.activations or model.quant.weights):
        return emitted
    graph = emitted.graph
    sites = {site.node: site for site in find_sites(graph, model.quant.float_nodes)}
    is_half = target.options.get("precision") == "float16"
    writer = _Writer(GraphEditor(graph), index(model.body.graph), model.quant, is_half)
    multiplied = {site.output for site in sites.values() if writer.multiplies(site)}
    multiplied |= {site_output(site, graph) for site in sites.values() if writer.multiplies(site)}
    for node in list(graph.node):
        site = sites.get(node.name)
        if site is not None and writer.multiplies(site):
            writer.multiplication(node, site)
        elif site is not None and site.op == "Add" and len(site.inputs) == 2:
            writer.addition(node, site, multiplied)
        else:
            writer.nodes.append(node)
    writer.finish()
    _write_four_bits(four_bit_products(model), writer)
    return emitted


def four_bit_products(model: OnnxModel) -> list[Product]:
    """Products whose weights alone become INT4: those that the plan has in 4 bits and that whole blocks can hold."""
    found = index(model.body.graph)
    products = weight_only_products(model.body.graph, model.quant)
    return [
        product
        for product in products
        if product.quant.dtype in ("int4", "uint4")
        and found.initializers[product.weight].dims[1 if product.transposed else 0] % FOUR_BIT_BLOCKS[0] == 0
    ]


def four_bits(values: np.ndarray, quant: TensorQuant) -> TensorQuant:
    """A (K, N) weight's 4-bit entry as TensorRT takes it: int4 around zero, in blocks of 64 or 128 along K.

    The plan's own when it is such; else scales that cover each block of 64, since no others are taken. Of the plan's own blocks
    those with a scale below zero, which it refuses, are rounded again with one above.
    """
    is_symmetric = quant.dtype == "int4" and not np.any(np.asarray(quant.zero_point).astype(np.int8))
    fits = values.shape[0] % (quant.block or 1) == 0
    real = weight_values(values, quant)
    if is_symmetric and quant.axis == 0 and quant.block in FOUR_BIT_BLOCKS and fits:
        if np.all(quant.scale > 0):
            return quant
        positive = fit_grid(real.T, 4, quant.block, symmetric=True).scale.T
        return replace(quant, scale=np.where(quant.scale > 0, quant.scale, positive))
    block = FOUR_BIT_BLOCKS[0]
    largest = np.abs(real.reshape(-1, block, real.shape[1])).max(axis=1)
    scale = np.maximum(largest / _LARGEST_FOUR_BIT, SMALLEST_SCALE).astype(np.float32)
    return TensorQuant("int4", scale, np.zeros(scale.shape, "int4"), axis=0, block=block)


def _write_four_bits(products: list[Product], writer: _Writer) -> None:
    """A DequantizeLinear of blocks before each product, the weight in the layout that it has."""
    by_node, editor = {product.node: product for product in products}, writer.editor

    def written(node: onnx.NodeProto) -> Replacement:
        product = by_node.get(node.name)
        stored = writer.looked_up.array(product.weight) if product is not None else None
        if product is None or stored is None:
            return None
        quant = four_bits(stored.T if product.transposed else stored, product.quant)
        quant = writer.representable(turned(quant, product.transposed))
        made = copied(node)
        made.input[1] = editor.name(product.weight, node.name, "DQ")
        of = (product.weight,)
        return [dequantized(of, weight_codes(stored, quant), quant, made.input[1], editor), made]

    editor.replace_nodes(written)


def site_output(site: Site, graph: onnx.GraphProto) -> str:
    """The node's own output, before a Relu that a processor's dialect would fold away."""
    return str(next(node for node in graph.node if node.name == site.node).output[0])


def symmetric(quant: TensorQuant) -> TensorQuant:
    """int8 around zero for the range of an 8-bit activation: scale () float32, zero point 0."""
    low = (np.iinfo(quant.dtype).min - np.asarray(quant.zero_point, np.float64)) * quant.scale
    high = (np.iinfo(quant.dtype).max - np.asarray(quant.zero_point, np.float64)) * quant.scale
    scale = np.maximum(np.abs(low), np.abs(high)) / _LARGEST
    return TensorQuant("int8", np.asarray(scale, np.float32), np.zeros((), np.int8))


@dataclass
class _Writer:
    """Collects the new nodes of one graph; the graph changes in `finish`."""

    editor: GraphEditor
    looked_up: GraphIndex
    plan: QuantPlan
    half: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    _read: dict[str, str] = field(default_factory=dict)

    def multiplies(self, site: Site) -> bool:
        """Whether it is a product with constant weights whose quantization the plan knows."""
        weight = self.plan.weights.get(site.weight or "")
        return (
            site.kind is Kind.MULTIPLY
            and weight is not None
            and fits_kernel(site.weight_axis, weight)
            and all(tensor in self.plan.activations for tensor in site.inputs)
        )

    def multiplication(self, node: onnx.NodeProto, site: Site) -> None:
        written = copied(node)
        written.input[0] = self._activation(node.input[0])
        written.input[1] = self._weight(site)
        self.nodes.append(written)

    def addition(self, node: onnx.NodeProto, site: Site, multiplied: set[str]) -> None:
        """The branch that no convolution ends in, so that the addition is fused into the one that does."""
        written = copied(node)
        ends = [name in multiplied and self.looked_up.only_consumer(name) is not None for name in node.input]
        position = 1 if all(ends) else ends.index(False)
        if any(ends) and node.input[position] in self.plan.activations:
            written.input[position] = self._activation(node.input[position])
        self.nodes.append(written)

    def finish(self) -> None:
        graph = self.editor.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        self.editor.close()

    def _activation(self, tensor: str) -> str:
        """One Q and one DQ for all readers of a tensor."""
        if tensor not in self._read:
            quant, name = self.representable(symmetric(self.plan.activations[tensor])), self.editor.name
            parameters = [
                self.editor.constant(np.asarray(quant.scale), tensor, "scale"),
                self.editor.constant(np.asarray(quant.zero_point), tensor, "zero_point"),
            ]
            make, codes, result = helper.make_node, name(tensor, "codes"), name(tensor, "DQ")
            self.nodes.append(make("QuantizeLinear", [tensor, *parameters], [codes], name(tensor, "Q")))
            self.nodes.append(make("DequantizeLinear", [codes, *parameters], [result], name(result, "node")))
            self._read[tensor] = result
        return self._read[tensor]

    def representable(self, quant: TensorQuant) -> TensorQuant:
        """A channel of nearly zero weights has a scale below float16's normal numbers; coarser codes cost it nothing."""
        if not self.half:
            return quant
        scale = np.maximum(np.asarray(quant.scale), _SMALLEST_NORMAL).astype(np.float16).astype(np.float32)
        return replace(quant, scale=scale)

    def _weight(self, site: Site) -> str:
        name = site.weight or ""
        if name not in self._read:
            quant, values = self.representable(self.plan.weights[name]), self.looked_up.array(name)
            assert values is not None
            self._read[name] = output = self.editor.name(name, "DQ")
            self.nodes.append(dequantized((name,), weight_codes(values, quant), quant, output, self.editor))
        return self._read[name]
