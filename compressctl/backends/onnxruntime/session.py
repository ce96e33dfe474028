"""A model opened in ONNX Runtime as it would serve."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from compressctl.backends.node_names import node_name
from compressctl.backends.preprocess import KEY, images_of, read_steps
from compressctl.core.custom_ops import EXTENSIONS, register
from compressctl.core.errors import CompressctlError, StageError, UsageError
from compressctl.core.failures import refused_in
from compressctl.core.machine import library_threads
from compressctl.core.model import Signature, TensorSpec, fits
from compressctl.core.target import Target

_QUIET = 4
"""ONNX Runtime's log level for what ends the process. Every other error is raised too, and translated here."""


class OrtSession:
    """A Session. Arrays go in and come out as they are: a wrong name, type or shape is an error, never a cast.

    Of a file with preprocessing inside, what the data prepared is turned back into images first.
    """

    def __init__(self, session: onnxruntime.InferenceSession, path: Path) -> None:
        self._session = session
        self._path = path
        self.signature = Signature(
            inputs=tuple(_tensor_spec(node) for node in session.get_inputs()),
            outputs=tuple(_tensor_spec(node) for node in session.get_outputs()),
        )
        self._outputs = [spec.name for spec in self.signature.outputs]
        self._inputs = {spec.name: spec for spec in self.signature.inputs}
        self._steps = read_steps(session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one batch. Raises UsageError for inputs that the model does not take."""
        return self._run(images_of(inputs, self._steps))

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if inputs.keys() != self._inputs.keys():
            raise UsageError(
                f"{self._path.name} takes {_listed(self._inputs)} but was given {_listed(inputs)}",
                hint="name the arrays like the model's inputs",
            )
        for name, array in inputs.items():
            _check_array(array, self._inputs[name])
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise translated(error, self._path) from error
        return dict(zip(self._outputs, values, strict=True))

    def repeat(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """ONNX Runtime's call on these inputs, checked once, here. Raises as `run` does, but takes any numbers for images."""
        given = images_of(inputs, self._steps, exact=False)
        self._run(given)
        return partial(self._session.run, self._outputs, given)


def open_session(path: Path, target: Target) -> OrtSession:
    """Raises UsageError when there is no such file or library of operators, and StageError, with the node's name, when ONNX Runtime refuses it."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="build the artifact again")
    try:
        options = register(serving_options(target))
        session = onnxruntime.InferenceSession(str(path), options, providers=providers(target))
    except UsageError:
        raise
    except Exception as error:
        raise translated(error, path) from error
    if target.device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise StageError(
            "ONNX Runtime has no CUDA here and would run on the processor instead",
            hint="check the GPU's driver and the CUDA version that onnxruntime-gpu was built for, or set device: cpu",
        )
    return OrtSession(session, path)


def providers(target: Target) -> list[str]:
    """CUDA first where it is asked for; what it has no kernel for runs on the processor."""
    return ["CUDAExecutionProvider", "CPUExecutionProvider"] if target.device == "cuda" else ["CPUExecutionProvider"]


def serving_options(target: Target) -> onnxruntime.SessionOptions:
    """One operator after the other on target.threads threads, all optimizations, the same result on every run."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = target.threads or library_threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = _QUIET
    if target.backend != "onnxruntime" or not target.options.get("integer_activations", True):
        # Else products of a float with a DequantizeLinear of blocks round their activations to 8 bits.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if target.backend == "tensorrt":
        # It stands in for a GPU, where 8-bit products cannot overflow; without VNNI they would here.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def translated(error: Exception, path: Path) -> CompressctlError:
    """ONNX Runtime's error in our words: what failed, in which node, and what to do."""
    text = re.sub(r"^\[ONNXRuntimeError\]\s*:\s*\d+\s*:\s*\w+\s*:\s*", "", str(error)).strip()
    text = re.sub(r"^Load model from \S+ failed:\s*", "", text)
    text = re.sub(r"\s*(/\S+\.(cc|h):\d+ .*?\) )", " ", text).strip()
    said = f"ONNX Runtime cannot run {path.name}"
    refused = refused_in(said, RuntimeError(text))
    if refused is not None:
        return refused
    for pattern, message, hint in _KNOWN_ERRORS:
        found = re.search(pattern, text, re.DOTALL)
        if found:
            facts = found.groupdict()
            if "node" in facts:
                facts["node"] = node_name(facts["node"], path)
            return StageError(f"{said}: {message.format(**facts)}", hint=hint)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return StageError(f"{said}: {first}")


_KNOWN_ERRORS = (
    (
        r"Could not find an implementation for (?P<op>\w+)\((?P<since>\d+)\) node with name '(?P<node>[^']*)'",
        "it has no kernel for {op} (opset {since}), node {node!r}, on this processor",
        "keep that node in float, or export the model with another operator",
    ),
    (
        r"(?P<domain>[\w.:]*)\(?-?\d*\)? is not a registered function/op",
        "it does not know the operator {domain}",
        f"name the library that brings it, as in `model: {{custom_ops: [library.so]}}` or [{EXTENSIONS}], or take a newer onnxruntime",
    ),
    (
        r"(?:Unsupported model IR version|unsupported.*IR version): (?P<found>\d+), max supported IR version: (?P<known>\d+)",
        "the file has ONNX IR version {found}, this onnxruntime reads up to {known}",
        "run: pip install --upgrade onnxruntime",
    ),
    (
        r"Opset (?P<opset>\d+) is under development",
        "opset {opset} is newer than this onnxruntime",
        "run: pip install --upgrade onnxruntime",
    ),
    (
        r"Node \((?P<node>[^)]*)\) Op \((?P<op>\w+)\) \[(?:Shape|Type)InferenceError\] (?P<why>[^\n]*)",
        "{op} node {node!r} cannot have these inputs: {why}",
        "check the shapes and types that the model was exported with",
    ),
    (
        r"Type '(?P<type>[^']*)' of input parameter \((?P<tensor>[^)]*)\) of operator \((?P<op>\w+)\) in node \((?P<node>[^)]*)\)",
        "{op} node {node!r} does not take {type} for {tensor!r}",
        "export the model in float32, or put a Cast before that node",
    ),
    (
        r"In Node, \(\"(?P<node>[^\"]*)\", (?P<op>\w+),.*Error (?P<why>[^\n]*)",
        "{op} node {node!r}: {why}",
        "export the model with standard operators only",
    ),
    (
        r"Protobuf parsing failed|ModelProto does not have a graph|No graph was found",
        "the file is not an ONNX model, or it is cut short",
        "build the artifact again",
    ),
    (
        r"(?P<file>\S*)[\"']? ?(?:does not exist|No such file or directory)|External data path does not exist: (?P<data>\S+)",
        "a file with its weights is missing",
        "keep every file of the artifact in one folder",
    ),
    (
        r"Non-zero status code returned while running (?P<op>\w+) node\. Name:'(?P<node>[^']*)' Status Message: (?P<why>[^\n]*)",
        "{op} node {node!r} failed: {why}",
        "check that the inputs have the shapes that the model was exported for, and that no text is longer than its table of positions (data.max_length, window)",
    ),
    (
        r"Failed to allocate memory|bad_alloc",
        "there is not enough memory",
        "use a smaller batch",
    ),
)


def _tensor_spec(node: onnxruntime.NodeArg) -> TensorSpec:
    dtype = _DTYPES.get(node.type, node.type)
    shape = tuple(size if isinstance(size, (int, str)) else f"unnamed_{axis}" for axis, size in enumerate(node.shape))
    return TensorSpec(node.name, dtype, shape)


_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


def _check_array(array: np.ndarray, spec: TensorSpec) -> None:
    if array.dtype.name != spec.dtype and not (spec.dtype == "object" and array.dtype.kind in "OUS"):
        raise UsageError(
            f"input {spec.name!r} is {array.dtype.name}, the model takes {spec.dtype}",
            hint=f"convert it with .astype({spec.dtype!r})",
        )
    if not fits(array.shape, spec.shape):
        wanted_shape = " x ".join(str(size) for size in spec.shape)
        raise UsageError(
            f"input {spec.name!r} has shape {' x '.join(map(str, array.shape))}, the model takes {wanted_shape}"
        )


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "nothing"
