"""Products whose weight alone is quantized: in blocks of a row's inputs, the activations left in float.

Two forms mean the same: DequantizeLinear in front of the product, which every runtime reads, and ONNX Runtime's MatMulNBits,
which also holds 2 bits. Source: ONNX Runtime, qdq_selectors.cc (DQMatMulToMatMulNBits: weight (K, N), blocks along axis 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.releases import reads_blocks, reads_packed_product, refused_product
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import weight_codes
from compressctl.graph.index import attribute, index, store_what_is_read
from compressctl.graph.matmul_nbits import bits_of, pack, packed_block, stored
from compressctl.graph.sites import fits_kernel

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Form:
    """packed: MatMulNBits, else DequantizeLinear. accuracy_level: of MatMulNBits; 4 rounds activations to 8 bits inside."""

    packed: bool
    accuracy_level: int = 0


@dataclass(frozen=True)
class Product:
    """weight: an initializer, (K, N), or (N, K) when transposed. quant: as if it were (K, N)."""

    node: str
    weight: str
    transposed: bool
    quant: TensorQuant


def weight_only_products(graph: onnx.GraphProto, plan: QuantPlan | None) -> list[Product]:
    """The matrix products whose weight the plan quantizes and whose input it does not, in graph order.

    So are those whose input it quantizes, if no integer kernel takes their weight's scales.
    """
    if plan is None:
        return []
    found, products = index(graph), []
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.name in plan.float_nodes:
            continue
        weight = found.initializers.get(node.input[1])
        known = weight is not None and len(weight.dims) == 2 and node.input[1] in plan.weights
        transposed = bool(node.op_type == "Gemm" and attribute(node, "transB", 0))
        if not known or node.input[0] in found.initializers:
            continue
        if node.input[0] in plan.activations and fits_kernel(0 if transposed else 1, plan.weights[node.input[1]]):
            continue
        if node.op_type == "Gemm" and not _is_plain(node):
            continue
        products.append(Product(node.name, node.input[1], transposed, turned(plan.weights[node.input[1]], transposed)))
    return products


def forms(product: Product, rows: int, target: Target) -> list[Form]:
    """The forms that can hold a product with a (K = rows, N) weight: 2 bits only packed, odd blocks only unpacked."""
    bits = bits_of(product.quant)
    is_packed = bits is not None and packed_block(product.quant, rows) and reads_packed_product(bits, target)
    found = [Form(True, level) for level in (0, 4)] if is_packed else []
    # A 2-bit type came to ONNX with opset 25, past what we write.
    is_plain = bits == 8 and product.quant.block is None
    return [*found, Form(False)] if is_plain or (bits in (4, 8) and reads_blocks(target)) else found


def write_weight_only(
    emitted: onnx.ModelProto, products: list[Product], chosen: Mapping[str, Form], target: Target
) -> None:
    """Change the products' nodes in place. chosen: by node; where nothing is chosen DequantizeLinear if it can.

    Raises StageError for weights that the oldest release that shall serve the file cannot read.
    """
    graph = emitted.graph
    found = index(graph)
    typed = {value.name: value for value in inferred(emitted).value_info}
    by_node = {product.node: product for product in products}
    made: dict[str, onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        product = by_node.get(node.name)
        values = found.array(product.weight) if product is not None else None
        if product is None or values is None:
            nodes.append(node)
            continue
        values = values.T if product.transposed else values
        possible = forms(product, values.shape[0], target)
        exact = next((form for form in possible if not form.packed), possible[0] if possible else None)
        form = chosen.get(node.name, exact)
        if form is None:
            if forms(product, values.shape[0], replace(target, oldest_onnxruntime=None)):
                raise refused_product(node.name, product.quant, target)
            nodes.append(node)
        else:
            written = _packed if form.packed else _blocked
            replacing = written(node, product, values, form, made)
            nodes += replacing
            if form.packed and node.output[0] in typed:
                # Nobody can infer shapes past an operator that ONNX does not define.
                for made_by in replacing:
                    graph.value_info.add().CopyFrom(typed[node.output[0]])
                    graph.value_info[-1].name = made_by.output[0]
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [tensor for tensor in graph.initializer if tensor.name not in made]
    store_what_is_read(graph, [*kept, *made.values()])
    if any(node.domain == MICROSOFT for node in nodes) and MICROSOFT not in {e.domain for e in emitted.opset_import}:
        emitted.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def inferred(emitted: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with what shape inference says about its tensors; empty where it says nothing."""
    try:
        return onnx.shape_inference.infer_shapes(emitted).graph
    except Exception:
        # Past 2 GiB, or statements that contradict each other: costs are then unknown, nothing else.
        return onnx.GraphProto()


def _packed(
    node: onnx.NodeProto, product: Product, values: np.ndarray, form: Form, made: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    names = [f"{product.weight}_{part}" for part in ("packed", "packed_scale", "packed_zero_point")]
    weight = pack(values, product.quant)
    parts = [weight.codes, weight.scale, *([] if weight.zero_point is None else [weight.zero_point])]
    made.update({name: stored(name, part) for name, part in zip(names, parts, strict=False)})
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    output = node.output[0] if bias is None else f"{node.output[0]}_without_bias"
    settings = {"K": values.shape[0], "N": values.shape[1], "bits": weight.bits, "block_size": weight.block}
    inputs = [node.input[0], *names[: len(parts)]]
    written = helper.make_node("MatMulNBits", inputs, [output], node.name, domain=MICROSOFT, **settings)
    if form.accuracy_level:
        written.attribute.append(helper.make_attribute("accuracy_level", form.accuracy_level))
    if bias is None:
        return [written]
    return [written, helper.make_node("Add", [output, bias], [node.output[0]], f"{node.name}_bias")]


def _blocked(
    node: onnx.NodeProto, product: Product, values: np.ndarray, form: Form, made: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """The weight as (K, N) whatever it was: ONNX Runtime computes with anything else in float, without a word."""
    written = onnx.NodeProto()
    written.CopyFrom(node)
    written.input[1] = f"{node.name}_{product.weight}_DQ"
    for entry in [entry for entry in written.attribute if entry.name == "transB"]:
        written.attribute.remove(entry)
    base = f"{product.weight}_turned" if product.transposed else product.weight
    return [dequantized(base, values, product.quant, written.input[1], made), written]


def dequantized(
    name: str, values: np.ndarray, quant: TensorQuant, output: str, made: dict[str, onnx.TensorProto]
) -> onnx.NodeProto:
    """A DequantizeLinear of the codes of values; its constants, whose names begin with name, are added to made."""
    parts = {
        f"{name}_codes": weight_codes(values, quant),
        f"{name}_scale": np.asarray(quant.scale, np.float32),
        f"{name}_zero_point": np.asarray(quant.zero_point).astype(quant.dtype),
    }
    made.update({name: stored(name, part) for name, part in parts.items()})
    node = helper.make_node("DequantizeLinear", list(parts), [output], f"{output}_node")
    if quant.axis is not None:
        node.attribute.append(helper.make_attribute("axis", quant.axis))
    if quant.block is not None:
        node.attribute.append(helper.make_attribute("block_size", quant.block))
    return node


def _is_plain(node: onnx.NodeProto) -> bool:
    return attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)


def turned(quant: TensorQuant, transposed: bool) -> TensorQuant:
    """The plan entry of a (N, K) weight as that of its (K, N) form, or back; its axis counted from the front."""
    if quant.axis is None:
        return quant
    axis = quant.axis % 2
    if not transposed or quant.block is None:
        return replace(quant, axis=1 - axis if transposed else axis)
    return replace(quant, axis=1 - axis, scale=np.asarray(quant.scale).T, zero_point=np.asarray(quant.zero_point).T)
