"""The backends as the registry lists them. Light: nothing here imports a runtime."""

from __future__ import annotations

from compressctl.core.backend import BackendSpec

ONNXRUNTIME = BackendSpec(
    name="onnxruntime",
    summary="ONNX Runtime on the processor: Q/DQ graphs that it fuses into integer kernels",
    package="onnxruntime",
    install='pip install "onnxruntime>=1.22"',
    implementation="compressctl.backends.onnxruntime:BACKEND",
)
