"""The size ledger of an exported file: bytes on disk and for transport, what they hold, what running it costs on paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from compressctl.core.backend import Artifact, Backend, ExecutedNode
from compressctl.core.count import count
from compressctl.core.model import OnnxModel
from compressctl.core.run_folder import below
from compressctl.core.streaming import constants
from compressctl.graph.cost import costs, total
from compressctl.graph.weight_nodes import find_weighted, tied_weights
from compressctl.measure.results import Measurement

TRANSPORT_LEVEL = 9
_CHUNK = 1 << 20
_INTEGERS = ("int2", "int4", "int8", "uint8")
"""Without "int4 weights", which are turned into floats and multiplied as such."""

_BITS = {
    "int2": 2, "int4": 4, "int8": 8, "uint8": 8, "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64,
}  # fmt: skip


def size(
    artifact: Artifact,
    model: OnnxModel,
    backend: Backend,
    nodes: Sequence[ExecutedNode] = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
    folder: Path = Path(),
) -> Measurement:
    """What the file takes and costs, before anything is run. model: its float graph gives parameters and MACs.

    nodes: as the runtime executes them, for bit operations (van Baalen et al. 2020, "Bayesian Bits", section 2.3) and the share
    of integers; without them these stay unknown. inputs: the shapes of a real sample by name of the input, which MACs are
    counted for, see `graph.shapes`. folder: the run's, which the path is told from.
    """
    files = {file.name: file.stat().st_size for file in artifact.files}
    counted = costs(model.body, inputs=inputs, values=constants(model.signature))
    macs, bits = total(counted), count((node.op, _bits(node)) for node in nodes) if nodes else None
    share, left_out = integer_mac_share(nodes)
    return Measurement(
        path=below(artifact.path, folder),
        files=files,
        total_bytes=sum(files.values()),
        transport_bytes=sum(map(_compressed_bytes, artifact.files)),
        parameters=sum(node.parameters for node in counted) - _written_twice(model),
        macs=macs.exact,
        macs_at_least=macs.at_least,
        macs_unknown=dict(macs.unknown),
        bit_operations=bits.exact if bits else None,
        bit_operations_at_least=bits.at_least if bits else None,
        weights=tuple(backend.weights(artifact)),
        integer_mac_share=share,
        integer_share_leaves_out=left_out,
        nodes=tuple(nodes),
        score=None,
        latency=None,
        memory=None,
        speed=None,
        change=None,
    )


def _written_twice(model: OnnxModel) -> int:
    """Numbers of a product's weight that are an embedding's table too: the graph of a quantized one holds both, each lying its own way."""
    graph = model.body.graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    tied = tied_weights(graph, find_weighted(graph))
    return sum(sizes.get(weight, 0) for weight, table in tied.items() if weight != table)


def integer_mac_share(nodes: Sequence[ExecutedNode]) -> tuple[float | None, dict[str, int]]:
    """How much of a file a runtime computes in integers, 0 to 1, of the MACs that are known; None where none is.

    Also the nodes that the share says nothing about although they multiply, by operator.
    """
    macs = count((node.op, node.macs) for node in nodes)
    integer = sum(node.macs or 0 for node in nodes if node.precision in _INTEGERS)
    return integer / macs.known if macs.known else None, dict(macs.unknown)


def _bits(node: ExecutedNode) -> int | None:
    """Multiply-accumulates x bits of the weight x bits of the activation, None where either is unknown.

    "int4 weights": the weight alone is small, the activation is float32.
    """
    if not node.macs:
        return node.macs
    stored, _, alone = node.precision.partition(" ")
    bits = _BITS.get(stored)
    return None if bits is None else node.macs * bits * (32 if alone else bits)


def _compressed_bytes(file: Path) -> int:
    import zstandard

    # The size is told before, as when a whole file is compressed at once: Zstandard chooses its tables by it.
    packer = zstandard.ZstdCompressor(level=TRANSPORT_LEVEL).compressobj(size=file.stat().st_size)
    total = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total += len(packer.compress(chunk))
    return total + len(packer.flush())
