"""Products whose weight alone is quantized: in blocks of a row's inputs, the activations left in float.

Two operators mean the same: DequantizeLinear in front of the product, which every runtime reads, and ONNX Runtime's MatMulNBits,
which also holds 2 bits. Source: ONNX Runtime, qdq_selectors.cc (DQMatMulToMatMulNBits: weight (K, N), blocks along axis 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
import onnx
from onnx import helper

from compressctl.backends.releases import reads_blocks, reads_packed_product, refused_product
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import weight_codes
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import all_nodes, attribute, copied, places
from compressctl.graph.matmul_nbits import bits_of, pack, packed_block
from compressctl.graph.sites import fits_kernel

MICROSOFT = "com.microsoft"


class Form(StrEnum):
    """How a file holds a layer's codes. MatMulNBits with float or 8-bit activations inside, a DequantizeLinear in front of the product,
    arithmetic that is done once, when the file is loaded (at_load.py), so that the layer runs on float weights, or an operator that
    quantizes its input while it runs (dynamic.py)."""

    NBITS = "matmul_nbits"
    NBITS_INT8 = "matmul_nbits_int8"
    QDQ = "qdq"
    AT_LOAD = "at_load"
    DYNAMIC = "dynamic"

    @property
    def is_packed(self) -> bool:
        return self in (Form.NBITS, Form.NBITS_INT8)


@dataclass(frozen=True)
class Product:
    """weight: an initializer, (K, N), or (N, K) when transposed. quant: as if it were (K, N).

    is_captured: the product stands in a body and its weight around it, since another graph reads it too.
    """

    node: str
    weight: str
    transposed: bool
    quant: TensorQuant
    is_captured: bool = False


def weight_only_products(graph: onnx.GraphProto, plan: QuantPlan | None) -> list[Product]:
    """The matrix products whose weight the plan quantizes and whose input it does not, in graph order.

    So are those whose input it quantizes, if no integer kernel takes their weight's scales.
    """
    if plan is None:
        return []
    products = []
    for place, found in places(graph):
        for node in place.node:
            weight = found.initializers.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
            quant = plan.weights.get(node.input[1]) if weight is not None and len(weight.dims) == 2 else None
            if quant is None or plan.is_float(node.name) or node.input[0] in found.initializers:
                continue
            transposed = bool(node.op_type == "Gemm" and attribute(node, "transB", 0))
            is_read_as_integers = node.input[0] in plan.activations and node.name not in plan.weights_alone
            if is_read_as_integers and fits_kernel(0 if transposed else 1, quant):
                continue
            if node.op_type == "Gemm" and not _is_plain(node):
                continue
            product = Product(node.name, node.input[1], transposed, turned(quant, transposed))
            products.append((product, place))
    homes: dict[str, set[int]] = {}
    for product, place in products:
        homes.setdefault(product.weight, set()).add(id(place))
    return [
        replace(product, is_captured=place is not graph and len(homes[product.weight]) > 1)
        for product, place in products
    ]


def forms(product: Product, rows: int, target: Target) -> list[Form]:
    """The forms that can hold a product with a (K = rows, N) weight: 2 bits only packed, odd blocks only unpacked.

    ONNX Runtime opens no file in which codes that a DequantizeLinear in a body reads stand around it.
    """
    bits = bits_of(product.quant)
    is_packed = bits is not None and packed_block(product.quant, rows) and reads_packed_product(bits, target)
    found = [Form.NBITS, Form.NBITS_INT8] if is_packed else []
    if found and product.is_captured and target.backend == "onnxruntime":
        return found
    # A 2-bit type came to ONNX with opset 25, past what we write.
    is_plain = bits == 8 and product.quant.block is None
    found += [Form.QDQ] if is_plain or (bits in (4, 8) and reads_blocks(target)) else []
    return [*found, Form.AT_LOAD] if found and target.backend == "onnxruntime" else found


def write_weight_only(
    emitted: onnx.ModelProto, products: list[Product], chosen: Mapping[str, Form], target: Target
) -> None:
    """Change the products' nodes in place, but those of the form AT_LOAD. chosen: by node; else DequantizeLinear if it can.

    Raises StageError for weights that the oldest release that shall serve the file cannot read.
    """
    editor = GraphEditor(emitted.graph)
    known = Statements(emitted)
    by_node = {product.node: product for product in products}

    def written(node: onnx.NodeProto) -> Replacement:
        product = by_node.get(node.name)
        values = editor.array(product.weight) if product is not None else None
        if product is None or values is None:
            return None
        values = values.T if product.transposed else values
        possible = forms(product, values.shape[0], target)
        exact = Form.QDQ if Form.QDQ in possible else possible[0] if possible else None
        form = chosen.get(node.name, exact)
        if form is Form.AT_LOAD:
            return None
        if form is None:
            if forms(product, values.shape[0], replace(target, oldest_onnxruntime=None)):
                raise refused_product(node.name, product.quant, target)
            return None
        if form is Form.QDQ:
            return _blocked(node, product, values, editor, target)
        nodes = _packed(node, product, values, form, editor)
        known.state(node.output[0], (made.output[0] for made in nodes))
        return nodes

    editor.replace_nodes(written)
    import_microsoft(emitted)


class Statements:
    """What shape inference says about the tensors of a graph, to be stated where an operator stands past which nobody can infer:
    one that ONNX does not define."""

    def __init__(self, emitted: onnx.ModelProto) -> None:
        self._emitted = emitted

    @cached_property
    def _known(self) -> dict[str, onnx.ValueInfoProto]:
        try:
            return {value.name: value for value in onnx.shape_inference.infer_shapes(self._emitted).graph.value_info}
        except Exception:
            # Past 2 GiB, or statements that contradict each other: costs are then unknown, nothing else.
            return {}

    def state(self, name: str, tensors: Iterable[str]) -> None:
        """Tensors have the type and shape that one of that name has."""
        stated = self._emitted.graph.value_info
        for tensor in tensors:
            if name in self._known and tensor not in {value.name for value in stated}:
                stated.add().CopyFrom(self._known[name])
                stated[-1].name = tensor


def import_microsoft(emitted: onnx.ModelProto) -> None:
    """Name the operator set of ONNX Runtime's own operators where the graph has one."""
    if MICROSOFT not in {entry.domain for entry in emitted.opset_import} and any(
        node.domain == MICROSOFT for node in all_nodes(emitted.graph)
    ):
        emitted.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def _packed(
    node: onnx.NodeProto, product: Product, values: np.ndarray, form: Form, editor: GraphEditor
) -> list[onnx.NodeProto]:
    weight = pack(values, product.quant)
    parts = {"packed": weight.codes, "packed_scale": weight.scale, "packed_zero_point": weight.zero_point}
    names = [editor.constant(part, product.weight, name) for name, part in parts.items() if part is not None]
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    output = node.output[0] if bias is None else editor.name(node.output[0], "without_bias")
    settings = {"K": values.shape[0], "N": values.shape[1], "bits": weight.bits, "block_size": weight.block}
    written = helper.make_node(
        "MatMulNBits", [node.input[0], *names], [output], node.name, domain=MICROSOFT, **settings
    )
    if form is Form.NBITS_INT8:
        written.attribute.append(helper.make_attribute("accuracy_level", 4))
    if bias is None:
        return [written]
    return [written, helper.make_node("Add", [output, bias], [node.output[0]], editor.name(node.name, "bias"))]


def _blocked(
    node: onnx.NodeProto, product: Product, values: np.ndarray, editor: GraphEditor, target: Target
) -> list[onnx.NodeProto]:
    """The weight as (K, N) whatever it was: ONNX Runtime computes with anything else in float, without a word.

    OpenVINO takes whole blocks alone, so that there a last one that is none gets rows that meet zeros.
    """
    written = copied(node)
    written.input[1] = editor.name(node.name, product.weight, "DQ")
    for entry in [entry for entry in written.attribute if entry.name == "transB"]:
        written.attribute.remove(entry)
    base = (product.weight, "turned") if product.transposed else (product.weight,)
    codes, nodes = weight_codes(values, product.quant), []
    missing = missing_of_block(product.quant, len(codes), target)
    if missing:
        codes, base = np.concatenate([codes, np.zeros((missing, codes.shape[1]), codes.dtype)]), (*base, "filled")
        written.input[0] = editor.name(node.name, "filled")
        pads = [editor.constant(np.array([0, missing]), node.name, "pads"), "", editor.constant(np.array([-1]), "last")]
        nodes = [helper.make_node("Pad", [node.input[0], *pads], [written.input[0]], written.input[0])]
    return [*nodes, dequantized(base, codes, product.quant, written.input[1], editor), written]


def missing_of_block(quant: TensorQuant, size: int, target: Target) -> int:
    """How many codes along the axis of blocks OpenVINO misses in the last one; other runtimes none."""
    return -size % quant.block if target.backend == "openvino" and quant.block is not None else 0


def dequantized(
    of: tuple[str, ...], codes: np.ndarray, quant: TensorQuant, output: str, editor: GraphEditor
) -> onnx.NodeProto:
    """A DequantizeLinear of stored codes. of: what the names of its constants begin with.

    Of blocks and of biases whose zero points are all 0 these are left out, as the operator allows: OpenVINO subtracts those of blocks at every call,
    and of small files those of biases are some hundredths.
    """
    inputs = [
        editor.constant(codes, *of, "codes"),
        editor.constant(np.asarray(quant.scale, np.float32), *of, "scale"),
    ]
    is_left_out = quant.dtype == "int32" or (quant.block is not None and bits_of(quant) != 8)
    if not is_left_out or np.any(quant.zero_point):
        inputs.append(editor.constant(np.asarray(quant.zero_point).astype(quant.dtype), *of, "zero_point"))
    node = helper.make_node("DequantizeLinear", inputs, [output], editor.name(output, "node"))
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
