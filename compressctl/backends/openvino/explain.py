"""How OpenVINO really executes an artifact, read from its own runtime model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import openvino

from compressctl.backends.openvino.build import NOTES, NOTES_IN_ONNX
from compressctl.backends.openvino.session import compile_model
from compressctl.core.backend import ExecutedNode
from compressctl.core.target import Target

_PRECISIONS = {
    "u8": "int8",
    "i8": "int8",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i4": "int4",
    "u4": "int4",
    "i2": "int2",
    "u2": "int2",
}
_FLOATS = ("float32", "float16", "bfloat16")
_MOVES = ("Transpose", "Reorder", "Reshape")
"""What also moves stored weights, which says nothing about activations."""

_UNKNOWN = "its inputs are integer, but OpenVINO has no integer kernel for this case"


def explain(path: Path, target: Target) -> list[ExecutedNode]:
    """Every node as the plugin executes it, in its order, constants left out, with the rule that a float island broke."""
    compiled, _ = compile_model(path, target, profiled=True)
    notes, kernels = _notes(path), _kernels(compiled)
    quantized = False
    rounded = "int8" if int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) > 0 else "float32"
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {name: value.astype(str) for name, value in node.get_rt_info().items()}
        if facts.get("layerType") in ("Const", "Constant"):
            continue
        precision = _PRECISIONS.get(facts.get("runtimePrecision", ""), facts.get("runtimePrecision", "unknown"))
        if precision not in _FLOATS and _reads_float(node):
            # The runtime states the weight's type; the activations decide what is multiplied.
            precision = rounded if precision.startswith("int") else "float32"
        else:
            quantized = quantized or (precision == "int8" and facts.get("layerType") not in _MOVES)
        name, macs, rule = _original(facts.get("originalLayersNames", ""), notes)
        op, kernel = facts.get("layerType", "unknown"), facts.get("execType") or kernels.get(node.get_friendly_name())
        found.append(ExecutedNode(name or node.get_friendly_name(), op, precision, macs, rule, kernel))
    return [
        replace(node, rule=(node.rule or _UNKNOWN) if node.macs and quantized and node.precision in _FLOATS else None)
        for node in found
    ]


def _kernels(compiled: openvino.CompiledModel) -> dict[str, str]:
    """By node, from one inference on zeros: newer runtime models leave execType empty. Empty where zeros do not run."""
    request = compiled.create_infer_request()
    try:
        for number, port in enumerate(compiled.inputs):
            shape = [1 if size.is_dynamic else size.get_length() for size in port.partial_shape]
            zeros = openvino.Tensor(port.element_type, shape)
            zeros.data[...] = 0
            request.set_input_tensor(number, zeros)
        request.infer()
    except Exception:
        # Zeros may be no valid indices, and 1 no valid size; what ran on which kernel is then not known, nothing more.
        return {}
    return {step.node_name: step.exec_type for step in request.profiling_info}


def _reads_float(node: openvino.Node) -> bool:
    """Whether a product's first input is float although its weight is not."""
    if node.get_rt_info()["layerType"].astype(str) != "FullyConnected":
        return False
    given = node.input_value(0).get_node().get_rt_info()
    return "outputPrecisions" in given and given["outputPrecisions"].astype(str).startswith(("f", "bf"))


def _notes(path: Path) -> dict[str, list[Any]]:
    if path.suffix == ".onnx":
        stored = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        in_onnx: dict[str, list[Any]] = json.loads(stored.get(NOTES_IN_ONNX, "{}"))
        return in_onnx
    model = openvino.Core().read_model(path)
    if not model.has_rt_info(NOTES):
        return {}
    found: dict[str, list[Any]] = json.loads(model.get_rt_info(NOTES).astype(str))
    return found


def _original(names: str, notes: dict[str, list[Any]]) -> tuple[str | None, int, str | None]:
    """The node with MACs among those that a kernel covers. Its notes are used up: a node is computed once.

    OpenVINO appends to the names of what it splits: "conv1/WithoutBiases/DequantizationMultiply".
    """
    for name in names.split(","):
        parts = name.split("/")
        for length in range(len(parts), 0, -1):
            note = notes.get("/".join(parts[:length]))
            if note is not None:
                for key in [key for key, value in notes.items() if value[0] == note[0]]:
                    del notes[key]
                return note[0], note[1], note[2]
    return None, 0, None
