"""OpenVINO on the processor: converts the Q/DQ graph to IR, opens it, and says how it really runs.

OpenVINO's Python package reports its use to its makers, from a process that it forks, as soon as it converts or opens a
model. compressctl reports nothing to anybody: the package falls back to silence when that part cannot be imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from compressctl.backends.specs import OPENVINO
from compressctl.core.backend import Artifact, Availability, ExecutedNode, Session, StoredWeights
from compressctl.core.errors import MissingDependencyError
from compressctl.core.machine import installed_version, this_machine
from compressctl.core.model import OnnxModel
from compressctl.core.target import Target

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class OpenVino:
    """The Backend. Its code is imported when it is asked to work, so that probing costs nothing."""

    def probe(self) -> Availability:
        installed = installed_version("openvino")
        halves = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}
        native = [name for name, flags in halves.items() if flags & this_machine().cpu_flags]
        note = (
            f"runs INT8 Q/DQ, weights of 2, 4 and 8 bits and NF4, float layers in {' or '.join(['float32', *native])}"
        )
        return Availability(installed is not None, installed, ("cpu",) if installed else (), OPENVINO.install, note)

    def build(self, model: OnnxModel, target: Target, folder: Path) -> Artifact:
        """Write `model.xml` and `model.bin` into folder, or `model.onnx` where storage is packed. See build.py."""
        _require(self.probe())
        from compressctl.backends.openvino.build import build

        return build(model, target, folder)

    def open(self, artifact: Artifact, target: Target) -> Session:
        """A compiled model as for serving, on target.threads threads. See session.py."""
        _require(self.probe())
        from compressctl.backends.openvino.session import open_session

        return open_session(artifact.path, target)

    def explain(
        self, artifact: Artifact, target: Target, inputs: Mapping[str, Sequence[int]] | None = None
    ) -> Sequence[ExecutedNode]:
        """Every node of OpenVINO's own runtime model, with its precision. See explain.py."""
        _require(self.probe())
        from compressctl.backends.openvino.explain import explain

        return explain(artifact.path, target, inputs)

    def weights(self, artifact: Artifact) -> Sequence[StoredWeights]:
        """The constants of the IR that are parameters. See weights.py."""
        if artifact.path.suffix == ".onnx":
            from compressctl.graph.stored_weights import stored_weights as in_onnx

            return in_onnx(artifact.path)
        _require(self.probe())
        from compressctl.backends.openvino.weights import stored_weights

        return stored_weights(artifact.path)


BACKEND = OpenVino()


def _require(found: Availability) -> None:
    if not found.installed:
        raise MissingDependencyError("the openvino backend", OPENVINO.package, OPENVINO.install)
