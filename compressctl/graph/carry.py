"""Weights that a file stores in 8 or 4 bits and computes with in float: their codes go into the plan, and stay what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from compressctl.core.errors import NothingToCompressError
from compressctl.core.events import Events
from compressctl.core.model import OnnxModel
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.graph.codes import dequantize_codes
from compressctl.graph.edit import GraphEditor, Replacement
from compressctl.graph.index import GraphIndex, attribute, copied, places
from compressctl.graph.matmul_nbits import bits_of
from compressctl.graph.quantized import already_quantized
from compressctl.graph.sites import is_between_codes
from compressctl.graph.tensors import copy_of
from compressctl.graph.weight_nodes import find_weighted, weight_positions


@dataclass(frozen=True)
class Carried:
    """model: the graph with these weights as float constants on their grid. weights: their plan, by name.

    said: sentences for the report; empty where nothing was quantized before.
    """

    model: onnx.ModelProto
    weights: Mapping[str, TensorQuant] = field(default_factory=dict)
    said: tuple[str, ...] = ()

    @property
    def plan(self) -> QuantPlan | None:
        return QuantPlan({}, dict(self.weights)) if self.weights else None

    @property
    def facts(self) -> dict[str, list[str]]:
        return {"already_quantized": list(self.said)} if self.said else {}

    def why_nothing(self) -> str:
        """What a stage adds to "nothing to do"."""
        return f" ({'; '.join(self.said)})" if self.said else ""


def carry(model: OnnxModel, body: onnx.ModelProto, events: Events) -> Carried:
    """What was quantized before this stage, said in a warning, with what the stage may not round again.

    body: the model's graph, simplified. Weights behind a DequantizeLinear that float products, convolutions and lookups
    read become constants with a plan entry, which writing turns into the same codes again; everything else that is
    quantized is left alone. Raises NothingToCompressError when an earlier stage has quantized activations.
    """
    if model.quant is not None and (model.quant.activations or model.quant.dynamic):
        raise NothingToCompressError(
            "the model is already quantized by an earlier stage", hint="quantize once, as the last stage"
        )
    before = already_quantized(model.body)
    earlier = {} if model.quant is None else dict(model.quant.weights)
    taken = _taken_over(body)
    stored = {tensor.name for tensor in taken.model.graph.initializer}
    weights = {**{name: quant for name, quant in earlier.items() if name in stored}, **taken.weights}
    said = [f"already quantized: {part}" for part in before]
    if earlier:
        shown = ", ".join(list(earlier)[:4])
        said.append(f"already quantized: {len(earlier)} weights by an earlier stage ({shown}); they keep their codes")
    lost = {name for part in before if part.what == "weight" for name in part.names} - _still_stored(body)
    lost |= earlier.keys() - stored
    if lost:
        said.append(
            f"{', '.join(sorted(lost))}: folded into floats with what stands around, and open to be rounded again"
        )
    for sentence in said:
        events.warn(sentence)
    return Carried(taken.model, weights, tuple(said))


def _still_stored(body: onnx.ModelProto) -> set[str]:
    return {name for part in already_quantized(body) for name in part.names}


def _taken_over(body: onnx.ModelProto) -> Carried:
    around = list(places(body.graph))
    wanted = {
        node.output[0]: quant
        for place, found in around
        for node in place.node
        if node.op_type == "DequantizeLinear"
        and node.output[0] not in found.outputs
        and (quant := _meaning(node, found)) is not None
    }
    if not wanted:
        return Carried(body)
    weighted = {node.node for node in find_weighted(_as_floats(body, wanted).graph)}
    read_otherwise = {
        name
        for place, found in around
        for node in place.node
        for name in wanted.keys() & set(node.input)
        if not _reads_as_weight(node, name, weighted, found, wanted)
    }
    kept = {name: quant for name, quant in wanted.items() if name not in read_otherwise}
    return Carried(_as_floats(body, kept) if kept else body, kept)


def _reads_as_weight(
    node: onnx.NodeProto, name: str, weighted: set[str], found: GraphIndex, wanted: Mapping[str, TensorQuant]
) -> bool:
    """Whether a node is a float product, convolution or lookup, and the tensor its weight."""
    own = weight_positions(node)
    alone = copied(node)
    del alone.input[:]
    alone.input.extend(part for position, part in enumerate(node.input) if position not in own and part not in wanted)
    positions = [position for position, part in enumerate(node.input) if part == name]
    return node.name in weighted and len(positions) == 1 and positions[0] in own and not is_between_codes(alone, found)


def _meaning(node: onnx.NodeProto, found: GraphIndex) -> TensorQuant | None:
    """What a DequantizeLinear of stored codes says; None for what is computed, and for types that weights do not have."""
    codes, scale = found.array(node.input[0]), found.array(node.input[1])
    has_point = len(node.input) > 2 and bool(node.input[2])
    point = found.array(node.input[2]) if has_point else None
    if codes is None or scale is None or scale.dtype != np.float32 or (has_point and point is None):
        return None
    dtype = helper.tensor_dtype_to_np_dtype(found.initializers[node.input[0]].data_type)
    point = np.zeros(scale.shape, dtype) if point is None else point
    axis: int | None = int(attribute(node, "axis", 1)) % max(codes.ndim, 1)  # type: ignore[call-overload]
    block = int(attribute(node, "block_size", 0))  # type: ignore[call-overload]
    if scale.size == 1 and not block:
        axis, scale, point = None, scale.reshape(()), point.reshape(())
    quant = TensorQuant(dtype.name, scale, point, axis, block or None)
    return quant if bits_of(quant) is not None else None


def _as_floats(body: onnx.ModelProto, quants: Mapping[str, TensorQuant]) -> onnx.ModelProto:
    """A copy in which these tensors are float constants, bit for bit what their DequantizeLinear gives."""
    made = copy_of(body)
    editor = GraphEditor(made.graph)

    def stored(node: onnx.NodeProto) -> Replacement:
        quant = quants.get(node.output[0]) if node.op_type == "DequantizeLinear" else None
        codes = editor.array(node.input[0]) if quant is not None else None
        if quant is None or codes is None:
            return None
        editor.store(node.output[0], dequantize_codes(codes, quant))
        return []

    editor.replace_nodes(stored)
    return made
