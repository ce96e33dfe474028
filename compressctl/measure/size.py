"""The size ledger of an exported file: bytes on disk and for transport, what they hold, what running it costs on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compressctl.core.backend import Artifact, Backend, ExecutedNode
from compressctl.core.count import Count, count
from compressctl.core.model import Model
from compressctl.graph.cost import costs, total
from compressctl.measure.results import Size

TRANSPORT_LEVEL = 9
_CHUNK = 1 << 20
_BITS = {
    "int2": 2, "int4": 4, "int8": 8, "uint8": 8, "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64,
}  # fmt: skip


def size(
    artifact: Artifact,
    model: Model,
    backend: Backend,
    nodes: Sequence[ExecutedNode] = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> Size:
    """transport_bytes: each file through Zstandard at level 9. model: its float graph gives parameters and MACs.

    nodes: as the runtime executes them, for bit operations; without them these stay unknown. inputs: the shapes of
    a real sample by name of the input, which MACs are counted for, see `graph.shapes`.
    """
    files = {file.name: file.stat().st_size for file in artifact.files}
    counted = costs(model.body, inputs=inputs)
    return Size(
        files=files,
        total_bytes=sum(files.values()),
        transport_bytes=sum(map(_packed_size, artifact.files)),
        parameters=sum(node.parameters for node in counted),
        macs=total(counted),
        bit_operations=_bit_operations(nodes) if nodes else None,
        weights=tuple(backend.weights(artifact)),
    )


def _bit_operations(nodes: Sequence[ExecutedNode]) -> Count:
    return count((node.op, _bits(node)) for node in nodes)


def _bits(node: ExecutedNode) -> int | None:
    """Multiply-accumulates x bits of the weight x bits of the activation, None where either is unknown.

    "int4 weights": the weight alone is small, the activation is float32.
    """
    if not node.macs:
        return node.macs
    stored, _, alone = node.precision.partition(" ")
    bits = _BITS.get(stored)
    return None if bits is None else node.macs * bits * (32 if alone else bits)


def _packed_size(file: Path) -> int:
    import zstandard

    # The size is told before, as when a whole file is compressed at once: Zstandard chooses its tables by it.
    packer = zstandard.ZstdCompressor(level=TRANSPORT_LEVEL).compressobj(size=file.stat().st_size)
    total = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total += len(packer.compress(chunk))
    return total + len(packer.flush())
