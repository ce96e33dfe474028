"""The backends as the registry lists them. Light: nothing here imports a runtime."""

from __future__ import annotations

from compressctl.backends.params import OnnxRuntimeParams, OpenVinoParams, TensorRtParams
from compressctl.core.backend import BackendSpec, Extra

ONNXRUNTIME = BackendSpec(
    name="onnxruntime",
    summary="ONNX Runtime on the processor: Q/DQ graphs that it fuses into integer kernels",
    package="onnxruntime",
    install='pip install "onnxruntime>=1.22"',
    params=OnnxRuntimeParams,
    implementation="compressctl.backends.onnxruntime:BACKEND",
)

OPENVINO = BackendSpec(
    name="openvino",
    summary="OpenVINO IR for Intel processors, from the same Q/DQ dialect",
    package="openvino",
    install="pip install 'compressctl[openvino]'",
    params=OpenVinoParams,
    implementation="compressctl.backends.openvino:BACKEND",
    extras=(
        Extra("weights", "nncf", "pip install 'compressctl[nncf]'", "INT4 with AWQ, NF4 and MXFP4 weights in OpenVINO"),
    ),
)

TENSORRT = BackendSpec(
    name="tensorrt",
    summary="a checked, strongly typed ONNX file and a build script for TensorRT engines",
    package="tensorrt",
    install="pip install tensorrt-cu13",
    params=TensorRtParams,
    implementation="compressctl.backends.tensorrt:BACKEND",
    rules="compressctl.backends.tensorrt.rules:RULES",
)
