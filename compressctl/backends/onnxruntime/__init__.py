"""ONNX Runtime on the processor: builds the artifact, opens it for serving, and says how it really runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compressctl.backends.specs import ONNXRUNTIME
from compressctl.core.backend import Artifact, Availability, ExecutedNode, Session
from compressctl.core.errors import MissingDependencyError
from compressctl.core.model import Model
from compressctl.core.target import Target

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
"""Packages that bring the module `onnxruntime`; each runs graphs on the processor in the same way."""


class OnnxRuntime:
    """The Backend. Its code is imported when it is asked to work, so that probing costs nothing."""

    def probe(self) -> Availability:
        installed = _installed_version()
        return Availability(installed is not None, installed, ("cpu",) if installed else (), ONNXRUNTIME.install)

    def build(self, model: Model, target: Target, folder: Path) -> Artifact:
        """Write `model.onnx` into folder, beside its weights when they are too large for one file. See build.py."""
        _require()
        from compressctl.backends.onnxruntime.build import build

        return build(model, target, folder)

    def open(self, artifact: Artifact, target: Target) -> Session:
        """A session as for serving, on target.threads threads. See session.py."""
        _require()
        from compressctl.backends.onnxruntime.session import open_session

        return open_session(artifact.path, target)

    def explain(self, artifact: Artifact, target: Target) -> Sequence[ExecutedNode]:
        """Every node of ONNX Runtime's own optimized graph, with its precision. See explain.py."""
        _require()
        from compressctl.backends.onnxruntime.explain import explain

        return explain(artifact.path, target)


BACKEND = OnnxRuntime()


def _installed_version() -> str | None:
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _require() -> None:
    if _installed_version() is None:
        raise MissingDependencyError("the onnxruntime backend", ONNXRUNTIME.package, ONNXRUNTIME.install)
