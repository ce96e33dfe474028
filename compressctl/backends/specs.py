"""The backends as the registry lists them. Light: nothing here imports a runtime."""

from __future__ import annotations

from compressctl.backends.params import OnnxRuntimeParams, OpenVinoParams, TensorRtParams
from compressctl.backends.releases import refusal
from compressctl.core.backend import BackendSpec, Extra

_TASKS = (
    Extra("lm_eval", "lm_eval", "pip install 'compressctl[lm-eval]'", "tasks of lm-eval on bundles"),
    Extra("lm_eval", "tokenizers", "pip install 'compressctl[lm-eval]'", "the texts of lm-eval's tasks"),
)

_GGUF = "pip install 'compressctl[gguf]'"
_LLAMA_CPP = (
    Extra("bundle", "gguf", _GGUF, "GGUF files", "gguf"),
    Extra("bundle", "llama_cpp", _GGUF, "GGUF files run by llama.cpp", "gguf", "llama-cpp-python"),
    Extra("bundle", "tokenizers", _GGUF, "the tokenizer of GGUF files", "gguf"),
)

ONNXRUNTIME = BackendSpec(
    name="onnxruntime",
    summary="ONNX Runtime on the processor: Q/DQ graphs that it fuses into integer kernels",
    package="onnxruntime",
    install='pip install "onnxruntime>=1.25"',
    params=OnnxRuntimeParams,
    implementation="compressctl.backends.onnxruntime:BACKEND",
    zeros="ONNX Runtime multiplies with zeros as with any number: its kernels are dense",
    refusal=refusal,
    custom_ops=True,
    bundles={
        "genai": "compressctl.backends.onnxruntime.genai:BUNDLER",
        "gguf": "compressctl.backends.llama_cpp.bundle:BUNDLER",
    },
    extras=(
        Extra(
            "bundle",
            "onnxruntime_genai",
            "pip install 'compressctl[genai]'",
            "bundles for ONNX Runtime GenAI",
            "genai",
        ),
        *_LLAMA_CPP,
        *_TASKS,
    ),
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
        Extra("bundle", "openvino_genai", "pip install 'compressctl[openvino-genai]'", "bundles for OpenVINO GenAI"),
        *_TASKS,
    ),
    bundles={"genai": "compressctl.backends.openvino.genai:BUNDLER"},
    # Source: OpenVINO documentation, CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE: INT8 matrix products on AMX, off unless it is set.
    zeros="OpenVINO multiplies with zeros as with any number: its kernels are dense unless sparse decompression (INT8 matrix "
    "products on AMX alone) is switched on",
)

TENSORRT = BackendSpec(
    name="tensorrt",
    summary="a checked, strongly typed ONNX file and a build script for TensorRT engines",
    package="tensorrt",
    install="pip install tensorrt-cu13",
    params=TensorRtParams,
    implementation="compressctl.backends.tensorrt:BACKEND",
    rules="compressctl.backends.tensorrt.rules:RULES",
    zeros="TensorRT skips zeros in the 2:4 pattern alone, on GPUs from Ampere on; others are multiplied as any number",
)
