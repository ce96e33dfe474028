"""How OpenVINO really executes an artifact, read from its own runtime model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import openvino
from pydantic import Field, TypeAdapter, ValidationError

from compressctl.backends.openvino.build import NOTES, NOTES_IN_ONNX
from compressctl.backends.openvino.macs import macs_at
from compressctl.backends.openvino.session import compile_model
from compressctl.backends.preprocess import taken_shapes
from compressctl.core.backend import ExecutedNode
from compressctl.core.target import Target
from compressctl.graph.model_file import metadata, parse

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

_MULTIPLIES = re.compile(
    r"Convolution|Deconvolution|FullyConnected|MatMul|RNN|LSTM|GRU|Attention|TensorIterator|Loop|^If$"
)
"""Layers of the runtime that stay unknown where none of the file's nodes is found for them. An Einsum becomes a MatMul."""

_UNKNOWN = "its inputs are integer, but OpenVINO has no integer kernel for this case"


def explain(path: Path, target: Target, inputs: Mapping[str, Sequence[int]] | None = None) -> list[ExecutedNode]:
    """Every node as the plugin executes it, in its order, constants left out, with the rule that a float island broke.

    MACs are those that the file was built with, counted anew for `inputs` where they are given, see `Backend`.
    """
    compiled, steps = compile_model(path, target, profiled=True)
    given = taken_shapes(inputs or {}, steps)
    notes, kernels = _notes(path), _kernels(compiled, given)
    if given:
        _count_at(notes, path, given)
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
        op = facts.get("layerType", "unknown")
        if name is None and _MULTIPLIES.search(op):
            macs = None
        kernel = facts.get("execType") or kernels.get(node.get_friendly_name())
        found.append(ExecutedNode(name or node.get_friendly_name(), op, precision, macs, rule, kernel))
    return [
        replace(
            node, rule=(node.rule or _UNKNOWN) if node.macs != 0 and quantized and node.precision in _FLOATS else None
        )
        for node in found
    ]


def _count_at(notes: dict[str, list[Any]], path: Path, inputs: Mapping[str, Sequence[int]]) -> None:
    """Put the MACs at these shapes into the notes; what OpenVINO does not tell keeps those that it was built with."""
    found: dict[str, int | None] = {}
    for name, macs in macs_at(path, inputs):
        note = next((notes[part] for part in _beginnings(name) if part in notes), None)
        if note is not None:
            found[note[0]] = macs if note[0] not in found else _sum(found[note[0]], macs)
    for note in notes.values():
        note[1] = found.get(note[0], note[1])


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _kernels(compiled: openvino.CompiledModel, inputs: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """By node, from one inference on zeros: newer runtime models leave execType empty. Empty where zeros do not run."""
    request = compiled.create_infer_request()
    try:
        for number, port in enumerate(compiled.inputs):
            given = next((inputs[name] for name in port.get_names() if name in inputs), None)
            shape = given or [1 if size.is_dynamic else size.get_length() for size in port.partial_shape]
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
        return _read(metadata(parse(path).model).get(NOTES_IN_ONNX, "{}"))
    model = openvino.Core().read_model(path)
    return _read(model.get_rt_info(NOTES).astype(str)) if model.has_rt_info(NOTES) else {}


def _read(text: str) -> dict[str, list[Any]]:
    """Nothing where anybody else wrote it: these are files, and need not be ours."""
    try:
        return {name: list(note) for name, note in _NOTES.validate_json(text, strict=True).items()}
    except ValidationError:
        return {}


_NOTES = TypeAdapter(dict[str, tuple[str, Annotated[int, Field(ge=0)] | None, str | None]])


def _original(names: str, notes: dict[str, list[Any]]) -> tuple[str | None, int | None, str | None]:
    """The node with MACs among those that a kernel covers. Its notes are used up: a node is computed once.

    OpenVINO appends to the names of what it splits: "conv1/WithoutBiases/DequantizationMultiply".
    """
    for name in names.split(","):
        for beginning in _beginnings(name):
            note = notes.get(beginning)
            if note is not None:
                for key in [key for key, value in notes.items() if value[0] == note[0]]:
                    del notes[key]
                return note[0], note[1], note[2]
    return None, 0, None


def _beginnings(name: str) -> list[str]:
    """A name, and what is left of it without its last parts."""
    parts = name.split("/")
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
