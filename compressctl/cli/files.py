"""Exported files that are named on the command line, without the run that made them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressctl.core.backend import Artifact
    from compressctl.core.model import Signature


def exported_file(path: Path) -> tuple[Artifact, Signature]:
    """A file by its ending: `.xml` is OpenVINO's, everything else is read as ONNX. Raises UsageError and StageError."""
    from compressctl.core.backend import Artifact

    if path.suffix != ".xml":
        from compressctl.sources.onnx_file import read_onnx, signature_of

        return Artifact("onnxruntime", path, (path,)), signature_of(read_onnx(path).graph, path)
    from compressctl.core.backend import BackendSpec, backends
    from compressctl.core.errors import MissingDependencyError
    from compressctl.pipeline.work import open_backend

    spec: BackendSpec = backends.get("openvino")
    if not open_backend("openvino").probe().installed:
        raise MissingDependencyError("the openvino backend", spec.package, spec.install)
    from compressctl.backends.openvino.signature import signature_of as openvino_signature

    return Artifact("openvino", path, (path, path.with_suffix(".bin"))), openvino_signature(path)
