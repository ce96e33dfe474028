"""What an exported ONNX file takes when it is packed for transport: packed, unpacked again, and compared."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from compressctl.core.backend import Artifact
from compressctl.core.errors import StageError
from compressctl.core.run_folder import below
from compressctl.measure.results import Measurement, PackedSize, PackedTensor
from compressctl.packed import PackedModel
from compressctl.packed.pack import pack


def packed_size(artifact: Artifact, baseline: Measurement, folder: Path) -> PackedSize | None:
    """Write the artifact's packed file beside it; None for an artifact that is no ONNX file.

    baseline: the float model's file. folder: the run's, which the path is told from.

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
    total = target.stat().st_size
    return PackedSize(
        path=below(target, folder),
        total_bytes=total,
        graph_bytes=graph,
        smaller=_model_bytes(baseline.files) / total,
        smaller_than_parameters=4 * baseline.parameters / total,
        tensors=tuple(PackedTensor.model_validate(line) for line in lines),
        encode_seconds=encoded - started,
        decode_seconds=decoded - encoded,
    )


def _model_bytes(files: Mapping[str, int]) -> int:
    """Without what lies beside a model that packing leaves alone, such as the script that builds an engine."""
    return sum(size for name, size in files.items() if ".onnx" in name) or sum(files.values())


def _check_same(model: PackedModel, original: Path) -> None:
    with tempfile.TemporaryDirectory(dir=original.parent) as folder:
        for written in model.write(Path(folder) / original.name):
            if written.read_bytes() != (original.parent / written.relative_to(folder)).read_bytes():
                raise StageError(
                    f"{written.name} did not come back from the packed file as it was",
                    hint="this is a mistake of compressctl: please report it with the file",
                )
