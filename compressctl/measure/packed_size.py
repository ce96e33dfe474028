"""What an exported ONNX file takes when it is packed for transport: packed, unpacked again, and compared."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from compressctl.core.backend import Artifact
from compressctl.core.errors import StageError
from compressctl.measure.results import PackedSize, PackedTensor
from compressctl.packed import PackedModel
from compressctl.packed.pack import pack


def packed_size(artifact: Artifact) -> PackedSize | None:
    """Write the artifact's packed file beside it; None for an artifact that is no ONNX file.

    What was written is unpacked and must be the artifact, byte by byte: so everything that was measured on the artifact holds
    for the packed file too. Raises StageError where it is not.
    """
    if artifact.path.suffix != ".onnx":
        return None
    target = artifact.path.with_suffix(".cctl")
    started = time.perf_counter()
    ledger = pack(artifact.path, target)
    encoded = time.perf_counter()
    with PackedModel(target, max_bytes=ledger.raw_bytes) as model:
        _check_same(model, artifact.path)
        decoded = time.perf_counter()
        lines, graph = model.lines(), model.head_bytes
    return PackedSize(
        path=target,
        total_bytes=target.stat().st_size,
        graph_bytes=graph,
        tensors=tuple(
            PackedTensor(line.name, line.dtype, line.values, line.coding, line.raw_bytes, line.packed_bytes)
            for line in lines
        ),
        encode_seconds=encoded - started,
        decode_seconds=decoded - encoded,
    )


def _check_same(model: PackedModel, original: Path) -> None:
    with tempfile.TemporaryDirectory(dir=original.parent) as folder:
        for written in model.write(Path(folder) / original.name):
            if written.read_bytes() != (original.parent / written.relative_to(folder)).read_bytes():
                raise StageError(
                    f"{written.name} did not come back from the packed file as it was",
                    hint="this is a mistake of compressctl: please report it with the file",
                )
