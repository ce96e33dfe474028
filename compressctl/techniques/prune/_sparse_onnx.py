"""The prunable weights of an ONNX graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.core.data import Split
from compressctl.core.errors import UsageError
from compressctl.core.events import Events
from compressctl.core.feeds import whole_feeds
from compressctl.core.model import OnnxModel, Signature
from compressctl.graph.carry import Carried, carry
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import GraphIndex, attribute, index, store_what_is_read
from compressctl.graph.simplify import simplify
from compressctl.graph.tensors import copy_of, from_array, to_array
from compressctl.numerics.patches import output_positions, patches
from compressctl.techniques.prune._sparse_layers import Layer, See, drawn

_BATCH = 8
"""Samples per run: what enters every layer is held at once."""

_HALVES = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, *_HALVES}


def prepared(model: OnnxModel, events: Events) -> Carried:
    """A copy in which weights are constants, whatever computed them, and those among them that were quantized before.

    A graph with 16-bit weights is copied as it is: folding constants would turn them into 32 bits. Raises StageError when an
    earlier stage has quantized activations.
    """
    proto = model.body
    if any(tensor.data_type in _HALVES for tensor in proto.graph.initializer):
        same = copy_of(proto)
        return carry(model, same, events)
    return carry(model, simplify(proto), events)


@dataclass(frozen=True)
class _Owner:
    """The first node that reads a weight. is_transposed: the weight is stored as (in, out)."""

    node: onnx.NodeProto
    is_transposed: bool


class OnnxWeights:
    """proto: changed in place. embeddings: whether tables that Gather reads count as prunable. See `Weights`.

    before: weights that are quantized already, which are skipped. any_order: whether weights count that one node reads as a matrix and another as its transpose; their rows are then the
    first reader's outputs. Without it such weights are skipped.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        signature: Signature,
        *,
        embeddings: bool,
        seed: int,
        before: Collection[str] = (),
        any_order: bool = False,
    ) -> None:
        self._proto = proto
        self._signature = signature
        self._seed = seed
        self._initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._owners, self.skipped = _find(proto.graph, embeddings, any_order, before)

    def layers(self) -> list[Layer]:
        return [
            Layer(
                name,
                (owner.node.name, owner.node.op_type),
                self._canonical(name, owner),
                int(attribute(owner.node, "group", 1)),  # type: ignore[call-overload]
            )
            for name, owner in self._owners.items()
        ]

    def write(self, name: str, weight: np.ndarray) -> None:
        tensor, owner = self._initializers[name], self._owners[name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        array = weight[:, 0].T if owner.is_transposed else np.moveaxis(weight, 2, 1).reshape(tuple(tensor.dims))
        tensor.CopyFrom(from_array(np.ascontiguousarray(array).astype(dtype), name))

    def shift(self, name: str, change: np.ndarray) -> None:
        """Convolutions and Gemm have a place for a bias; it becomes a constant of the node's own."""
        node, tensor = self._owners[name].node, self._initializers[name]
        shared = sum(name in other.input for other in self._proto.graph.node) > 1
        if (
            node.op_type in ("MatMul", "Gather")
            or shared
            or attribute(node, "alpha", 1.0) != 1.0
            or attribute(node, "beta", 1.0) != 1.0
        ):
            return
        old = node.input[2] if len(node.input) > 2 else ""
        given = to_array(self._initializers[old]) if old in self._initializers else np.zeros(1, np.float32)
        if (old and old not in self._initializers) or given.size not in (1, change.size):
            return
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        own = f"{name}.shifted_bias"
        bias = from_array((given.reshape(-1) + change).astype(dtype), own)
        if own == old:
            self._initializers[own].CopyFrom(bias)
            return
        del node.input[2:]
        node.input.append(own)
        self._proto.graph.initializer.append(bias)
        self._initializers[own] = self._proto.graph.initializer[-1]

    def watch(self, names: Sequence[str], split: Split, see: See, rows: int) -> None:
        rng = np.random.default_rng(self._seed)
        nodes = {name: self._owners[name].node for name in names}
        entering = {name: node.input[0] for name, node in nodes.items() if node.op_type != "Gather"}
        tapped = ActivationRecorder(self._proto, list(dict.fromkeys(entering.values())))
        for inputs in _batches(split, self._signature):
            values = tapped.run(inputs)
            for name, entry in entering.items():
                see(name, self._rows(name, values[entry], rows, rng))

    def body(self) -> onnx.ModelProto:
        """Without the biases that others have replaced."""
        store_what_is_read(self._proto.graph)
        self._initializers = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        return self._proto

    def _canonical(self, name: str, owner: _Owner) -> np.ndarray:
        array = to_array(self._initializers[name])
        if owner.is_transposed:
            array = array.T
        flat = array.reshape(*array.shape[:2], -1)
        return np.ascontiguousarray(np.moveaxis(flat, 1, 2), dtype=np.float32)

    def _rows(self, name: str, values: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
        node, array = self._owners[name].node, values.astype(np.float32)
        if node.op_type != "Conv":
            if node.op_type == "Gemm" and attribute(node, "transA", 0):
                array = array.T
            flat = array.reshape(-1, 1, array.shape[-1])
            return flat if len(flat) <= limit else flat[drawn(len(flat), limit, rng)]
        kernel = tuple(self._initializers[name].dims[2:])
        geometry = _geometry(node, kernel, array.shape[2:])
        return patches(array, *geometry, rows=drawn(output_positions(array, *geometry), limit, rng))


def _find(
    graph: onnx.GraphProto, embeddings: bool, any_order: bool, before: Collection[str]
) -> tuple[dict[str, _Owner], dict[str, str]]:
    looked_up = index(graph)
    owners: dict[str, _Owner] = {}
    skipped: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul", "ConvTranspose", "Gather") or node.domain not in (
            "",
            "ai.onnx",
        ):
            continue
        name = node.input[0] if node.op_type == "Gather" else node.input[1]
        tensor = looked_up.initializers.get(name)
        if tensor is None or tensor.data_type not in _FLOATS or len(tensor.dims) < 2:
            continue
        reason = "quantized already" if name in before else None
        reason = reason or _unprunable(node, name, tensor, looked_up, embeddings, any_order)
        if reason is not None:
            skipped[name] = reason
        else:
            owners.setdefault(name, _Owner(node, _is_transposed(node)))
    return {name: owner for name, owner in owners.items() if name not in skipped}, skipped


def _unprunable(
    node: onnx.NodeProto,
    name: str,
    tensor: onnx.TensorProto,
    looked_up: GraphIndex,
    embeddings: bool,
    any_order: bool,
) -> str | None:
    if node.op_type == "Gather":
        if attribute(node, "axis", 0) != 0 or len(tensor.dims) != 2:
            return "a constant of which parts are taken"
        return None if embeddings else "an embedding table; `embeddings: true` prunes it"
    if node.op_type == "ConvTranspose":
        return "a transposed convolution"
    if node.op_type == "MatMul" and len(tensor.dims) != 2:
        return f"a product of {len(tensor.dims)} axes"
    if any_order:
        return None
    ways = {_is_transposed(reader) for reader in looked_up.consumers[name] if reader.op_type in ("Gemm", "MatMul")}
    return "two nodes read it in different orders" if len(ways) > 1 else None


def _is_transposed(node: onnx.NodeProto) -> bool:
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))


def _geometry(
    node: onnx.NodeProto, kernel: Sequence[int], sizes: Sequence[int]
) -> tuple[Sequence[int], list[int], list[tuple[int, int]], list[int]]:
    """Kernel, strides, pads and dilations of a Conv node."""
    axes = len(kernel)
    strides = [int(value) for value in attribute(node, "strides", [1] * axes)]  # type: ignore[attr-defined]
    dilations = [int(value) for value in attribute(node, "dilations", [1] * axes)]  # type: ignore[attr-defined]
    given = [int(value) for value in attribute(node, "pads", [0] * (2 * axes))]  # type: ignore[attr-defined]
    mode = attribute(node, "auto_pad", b"NOTSET")
    pads = list(zip(given[:axes], given[axes:], strict=True))
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        pads = []
        for size, reach, step, stride in zip(sizes, kernel, dilations, strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + (reach - 1) * step + 1 - size, 0)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if mode == b"SAME_UPPER" else (more, less))
    return kernel, strides, pads, dilations


def _batches(split: Split, signature: Signature) -> Iterator[Mapping[str, np.ndarray]]:
    """Batches of the size that the model takes; an incomplete one only where the size is free."""
    given = 0
    for feed in whole_feeds(split, signature, _BATCH):
        given += 1
        yield feed.inputs
    if not given:
        raise UsageError(f"the calibration split has {len(split)} samples, fewer than the model's fixed batch takes")
