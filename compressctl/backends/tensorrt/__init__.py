"""TensorRT without needing it: a conformant ONNX file, checked by a linter, and a script that builds the engine elsewhere.

Accuracy is measured by running the file in ONNX Runtime, which computes the same Q/DQ arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from compressctl.backends.specs import TENSORRT
from compressctl.core.backend import Artifact, Availability, ExecutedNode, Session, StoredWeights
from compressctl.core.machine import installed_version, nvidia_gpu
from compressctl.core.model import OnnxModel
from compressctl.core.target import Target

_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


class TensorRt:
    """The Backend. Its code is imported when it is asked to work, so that probing costs nothing."""

    def probe(self) -> Availability:
        """Always able to deliver; the note says what building an engine here would need."""
        found, gpu = installed_version(*_DISTRIBUTIONS), nvidia_gpu()
        note = "delivers a checked ONNX file and a build script; the file runs in ONNX Runtime for accuracy"
        words = found or "without TensorRT"
        missing = []
        if gpu is None:
            missing.append(
                "engines: there is no NVIDIA GPU here, or no driver for it; run build_engine.py where one is"
            )
        if found is None:
            missing.append(f"engines: {TENSORRT.install}")
        return Availability(
            True, words, ("cuda",) if found and gpu else (), TENSORRT.install, note, tuple(missing), True
        )

    def build(self, model: OnnxModel, target: Target, folder: Path) -> Artifact:
        """Write `model.onnx` and `build_engine.py` into folder. See build.py."""
        from compressctl.backends.tensorrt.build import build

        return build(model, target, folder)

    def open(self, artifact: Artifact, target: Target) -> Session:
        """The file in ONNX Runtime on the processor: same results within rounding, not the same speed."""
        from compressctl.backends.onnxruntime.session import open_session

        return open_session(artifact.path, replace(target, device="cpu"))

    def explain(
        self, artifact: Artifact, target: Target, inputs: Mapping[str, Sequence[int]] | None = None
    ) -> Sequence[ExecutedNode]:
        """Nothing: how an engine executes is known only once it is built."""
        return ()

    def weights(self, artifact: Artifact) -> Sequence[StoredWeights]:
        from compressctl.graph.stored_weights import stored_weights

        return stored_weights(artifact.path)


BACKEND = TensorRt()
