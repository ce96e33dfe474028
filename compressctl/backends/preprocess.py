"""The export options `preprocess` and `io_dtype`: files that take images as bytes and prepare them inside, and 16-bit floats in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from pydantic import ValidationError

from compressctl.backends.params import Preprocess
from compressctl.core.errors import UsageError
from compressctl.core.model import Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.graph.edit import GraphEditor
from compressctl.graph.float16 import half_io
from compressctl.graph.index import rename_reads
from compressctl.graph.opset import raised
from compressctl.graph.tensors import copy_of

KEY = "compressctl.preprocess"
"""Where an ONNX file's metadata hold its steps, so that prepared arrays can be turned back into the images that it takes."""

PREFIX = "preprocess/"
"""Of the names of nodes that prepare images."""

_OLDEST_OPSET = 7
"""From here on a constant is broadcast along the axes before its own."""

_LARGEST_ERROR = {"float16": 0.25}
"""Of a pixel value, 0 to 255, that is computed back from such arrays, 0.02 from others: float32 leaves some 1e-5, float16 some 0.06."""


def as_served(proto: onnx.ModelProto, signature: Signature, target: Target) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph as the target's options want it called, and what its user must know about that. signature: the model's."""
    notes = []
    steps = asked_steps(signature, target)
    if steps is not None:
        proto = with_preprocessing(proto, steps, is_cast_first=target.backend == "tensorrt")
        notes.append(
            f"it takes {steps.input} as images of bytes (uint8, {steps.layout}, {_colour(steps)}), and what prepares them is part of the file "
            "and of its time; it was measured on such images, the original on arrays prepared outside"
        )
    if target.options.get("io_dtype") == "float16":
        proto = half_io(proto)
        notes.append("float inputs and outputs are float16")
    return proto, tuple(notes)


def asked_steps(signature: Signature, target: Target) -> Preprocess | None:
    """What the target's options fold into the file, with the input's name. Raises UsageError where it does not fit the model."""
    asked = target.options.get("preprocess")
    if asked is None:
        return None
    steps = Preprocess.model_validate_json(json.dumps({} if asked is True else asked))
    spec = _image_input(signature, steps)
    channels = spec.shape[_channel_axis(steps)]
    for name, values in (("mean", steps.mean), ("std", steps.std)):
        if values is not None and len(values) != 1 and isinstance(channels, int) and len(values) != channels:
            raise UsageError(f"preprocess.{name} has {len(values)} numbers, and {spec.name} has {channels} channels")
    return steps.model_copy(update={"input": spec.name})


def _image_input(signature: Signature, steps: Preprocess) -> TensorSpec:
    fitting = [
        spec
        for spec in signature.inputs
        if len(spec.shape) == 4 and spec.dtype in ("float32", "float16") and steps.input in (None, spec.name)
    ]
    if len(fitting) != 1:
        known = ", ".join(f"{spec.name} {list(spec.shape)} {spec.dtype}" for spec in signature.inputs)
        raise UsageError(
            f"preprocess: one input takes images, four axes of floats, and the model's are {known}",
            hint="name it, as in `preprocess: {input: images}`" if len(fitting) > 1 else None,
        )
    return fitting[0]


def with_preprocessing(proto: onnx.ModelProto, steps: Preprocess, *, is_cast_first: bool = False) -> onnx.ModelProto:
    """A copy of a graph that takes uint8 images under the input's name. steps: with the input's name.

    is_cast_first: bytes are moved only once they are floats, as TensorRT asks (its uint8 tensors are inputs, and read by a Cast alone);
    else before, when there is least to move.
    """
    made = raised(copy_of(proto), _OLDEST_OPSET)
    graph, editor = made.graph, GraphEditor(made.graph)
    value = next(value for value in graph.input if value.name == steps.input)
    kind = value.type.tensor_type.elem_type
    inner = editor.name(value.name, "prepared")
    for node in graph.node:
        rename_reads(node, {value.name: inner})
    moves = [*_moved(steps, editor)]
    cast = ("Cast", "float", (), {"to": TensorProto.FLOAT})
    operations = [cast, *moves] if is_cast_first else [*moves, cast]
    operations += _scaled(steps, editor)
    if kind != TensorProto.FLOAT:
        operations.append(("Cast", "narrow", (), {"to": kind}))
    nodes, tensor = [], value.name
    for place, (operator, name, constants, attributes) in enumerate(operations, 1):
        output = inner if place == len(operations) else editor.name(PREFIX + name)
        nodes.append(helper.make_node(operator, [tensor, *constants], [output], PREFIX + name, **attributes))
        tensor = output
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    value.type.tensor_type.elem_type = TensorProto.UINT8
    sizes = list(value.type.tensor_type.shape.dim)
    del value.type.tensor_type.shape.dim[:]
    value.type.tensor_type.shape.dim.extend(sizes[axis] for axis in _axes(steps))
    helper.set_model_props(
        made, {**{entry.key: entry.value for entry in made.metadata_props}, KEY: steps.model_dump_json()}
    )
    return made


_Operation = tuple[str, str, tuple[str, ...], dict[str, Any]]
"""Operator, name, constants that it reads behind the image, attributes."""


def _moved(steps: Preprocess, editor: GraphEditor) -> list[_Operation]:
    """Axes and channels in the model's order."""
    moves: list[_Operation] = []
    back = np.argsort(_axes(steps)).tolist()
    if back != [0, 1, 2, 3]:
        moves.append(("Transpose", "layout", (), {"perm": back}))
    if _is_reversed(steps):
        order = editor.constant(np.array([2, 1, 0], np.int64), PREFIX + "channels")
        moves.append(("Gather", "color", (order,), {"axis": _channel_axis(steps)}))
    return moves


def _scaled(steps: Preprocess, editor: GraphEditor) -> list[_Operation]:
    """x * scale / std - mean / std, as one product and one sum."""
    std = np.array(steps.std or (1.0,), np.float64)
    factor, shift = _scale(steps) / std, -np.array(steps.mean or (0.0,), np.float64) / std
    named: list[_Operation] = []
    for operator, name, numbers, neutral in (("Mul", "scale", factor, 1.0), ("Add", "shift", shift, 0.0)):
        if (numbers != neutral).any():
            shape = (-1, 1, 1) if len(numbers) > 1 and _channel_axis(steps) == 1 else (-1,)
            constant = editor.constant(numbers.astype(np.float32).reshape(shape), PREFIX + name + "_values")
            named.append((operator, name, (constant,), {}))
    return named


def _scale(steps: Preprocess) -> float:
    return 1 / 255 if steps.scale is None else steps.scale


def _channel_axis(steps: Preprocess) -> int:
    """In what the model takes."""
    return 3 if steps.model_layout == "NHWC" else 1


def _is_reversed(steps: Preprocess) -> bool:
    return steps.model_color != "gray" and steps.color != (steps.model_color or "rgb")


def _colour(steps: Preprocess) -> str:
    return "one channel" if steps.model_color == "gray" else steps.color


def _axes(steps: Preprocess) -> tuple[int, int, int, int]:
    """By axis of what the file takes, that of what the model takes."""
    model = steps.model_layout or "NCHW"
    first, second, third, fourth = (model.index(letter) for letter in steps.layout)
    return first, second, third, fourth


def read_steps(text: str | None, path: Path) -> Preprocess | None:
    """What `with_preprocessing` wrote into the file's metadata. Raises UsageError for what it did not write."""
    if text is None:
        return None
    try:
        return Preprocess.model_validate_json(text)
    except ValidationError:
        raise UsageError(f"what {path} says about its preprocessing cannot be read", hint="export it again") from None


def images_of(
    inputs: Mapping[str, np.ndarray], steps: Preprocess | None, *, exact: bool = True
) -> dict[str, np.ndarray]:
    """A call's arrays as a file with these steps takes them: floats that the data prepared become the bytes that they were made of.

    Raises UsageError where that gives no whole numbers of 0 to 255; not exact: it rounds and cuts.
    """
    return {
        name: _image(array, steps, exact=exact) if steps and name == steps.input and array.dtype.kind == "f" else array
        for name, array in inputs.items()
    }


def _image(array: np.ndarray, steps: Preprocess, *, exact: bool) -> np.ndarray:
    if array.ndim != 4:
        raise UsageError(f"{steps.input} takes images, four axes, and was given {list(array.shape)}")
    shape = [1, 1, 1, 1]
    shape[_channel_axis(steps)] = -1
    values = array.astype(np.float64) * np.reshape(steps.std or (1.0,), shape) + np.reshape(steps.mean or (0.0,), shape)
    values /= _scale(steps)
    if _is_reversed(steps):
        values = np.flip(values, _channel_axis(steps))
    values = values.transpose(_axes(steps))
    whole = np.rint(values)
    is_image = (np.abs(whole - values) <= _LARGEST_ERROR.get(array.dtype.name, 0.02)) & (whole >= 0) & (whole <= 255)
    if exact and not is_image.all():
        raise UsageError(
            "preprocess does not fit the data: turned back, a sample is no image of bytes",
            hint="scale, mean and std are those with which the data are prepared, and padding is a pixel value, as `fill` is",
        )
    return np.ascontiguousarray(whole.clip(0, 255), np.uint8)


def as_prepared(inputs: Mapping[str, np.ndarray], steps: Preprocess | None) -> dict[str, np.ndarray]:
    """A call with random values as one with random images, as the model takes them."""
    if steps is None or steps.input is None:
        return dict(inputs)
    shape = [inputs[steps.input].shape[axis] for axis in _axes(steps)]
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return {**inputs, steps.input: prepared(images, steps).astype(inputs[steps.input].dtype)}


def prepared(images: np.ndarray, steps: Preprocess) -> np.ndarray:
    """Bytes as the file takes them to the float32 array that the model is given inside."""
    values = images.transpose(np.argsort(_axes(steps)))
    if _is_reversed(steps):
        values = np.flip(values, _channel_axis(steps))
    shape = [1, 1, 1, 1]
    shape[_channel_axis(steps)] = -1
    mean, std = np.reshape(steps.mean or (0.0,), shape), np.reshape(steps.std or (1.0,), shape)
    return np.asarray((values * np.float64(_scale(steps)) - mean) / std, np.float32)


def taken_shapes(inputs: Mapping[str, Sequence[int]], steps: Preprocess | None) -> dict[str, tuple[int, ...]]:
    """Shapes of a call of the model as those of a call of the file."""
    return {
        name: tuple(shape[axis] for axis in _axes(steps)) if steps and name == steps.input else tuple(shape)
        for name, shape in inputs.items()
    }


def file_signature(signature: Signature, target: Target) -> Signature:
    """What the file takes and gives. signature: the model's."""
    steps = asked_steps(signature, target)
    called = called_signature(signature, target)
    inputs = (
        replace(spec, dtype="uint8", shape=tuple(spec.shape[axis] for axis in _axes(steps)))
        if steps and spec.name == steps.input
        else spec
        for spec in called.inputs
    )
    return replace(called, inputs=tuple(inputs))


def called_signature(signature: Signature, target: Target) -> Signature:
    """What a session of the file takes and gives: as the file, but prepared arrays in the place of images."""
    if target.options.get("io_dtype") != "float16":
        return signature
    steps = asked_steps(signature, target)
    image = None if steps is None else steps.input

    def narrow(spec: TensorSpec) -> TensorSpec:
        return replace(spec, dtype="float16") if spec.dtype == "float32" and spec.name != image else spec

    return replace(
        signature, inputs=tuple(map(narrow, signature.inputs)), outputs=tuple(map(narrow, signature.outputs))
    )


def before_preprocessing(signature: Signature, steps: Preprocess | None) -> Signature:
    """What a session takes of a file whose own signature this is."""
    if steps is None:
        return signature

    def before(spec: TensorSpec) -> TensorSpec:
        if spec.name != steps.input or len(spec.shape) != 4:
            return spec
        return replace(spec, dtype="float32", shape=tuple(spec.shape[axis] for axis in np.argsort(_axes(steps))))

    return replace(signature, inputs=tuple(map(before, signature.inputs)))
