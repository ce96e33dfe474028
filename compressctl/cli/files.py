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


def writable(path: Path, force: bool) -> Path:
    """The path of a file to write. Raises UsageError when one is there and force was not given, or the folder is not."""
    from compressctl.core.errors import UsageError

    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file with --output")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", hint="--force writes over it, --output chooses another name")
    return path


def parsed_size(option: str, text: str) -> int:
    """Bytes from `5MB`. Raises UsageError that names the option."""
    from compressctl.core.errors import UsageError
    from compressctl.recipe.schema import parse_size

    try:
        size = int(parse_size(text if not text.isdecimal() else int(text)))
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None
    return size
