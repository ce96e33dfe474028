"""An ONNX file as the model to compress."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressctl.core.batch_axes import with_batch_axes
from compressctl.core.custom_ops import EXTENSIONS, known, library, name_of, using
from compressctl.core.errors import UsageError, first_line
from compressctl.core.failures import refusal
from compressctl.core.model import Model, OnnxModel, Signature, TensorSpec
from compressctl.core.streaming import with_states
from compressctl.sources.addressed import local_model, pinned
from compressctl.sources.fingerprint import contents_fingerprint, existing, hash_file, source_fingerprint
from compressctl.store.address import is_address

if TYPE_CHECKING:
    import onnx

    from compressctl.graph.model_file import Parsed
    from compressctl.sources.params import OnnxParams

VERSION = 3
_MOST_NUMBERS = 1 << 30
"""In one input: 4 GiB of float32."""

FIXED_BATCH_NOTE = "compressctl.fixed_batch"
"""Key of the model's metadata under which the reason stands when a batch size could not be freed."""


def load(params: OnnxParams, base: Path, seed: int) -> Model:
    """The file's graph, or with `trainable` a PyTorch network of it. Raises UsageError."""
    graph = load_graph(params, base)
    if not params.trainable:
        return graph
    from compressctl.sources.graph_network.trainable import trainable

    return trainable(graph, Path(params.path), params.shapes)


def load_graph(params: OnnxParams, base: Path) -> OnnxModel:
    """The file's graph in canonical form, large constants left in their files; symbolic dimensions keep their names.

    Packed weights are unpacked. A batch size fixed to 1 is freed where the graph then computes the same; where not, the model's metadata says why.
    Raises UsageError when the file is not a valid ONNX model or needs operators that neither ONNX Runtime nor a library brings.
    """
    from compressctl.graph.canonical import canonical
    from compressctl.graph.dynamic_batch import free_batch
    from compressctl.graph.unpack_constants import unpack_constants

    path = local_model(params, base)
    proto = read_onnx(path)
    with using([library(name, base) for name in params.custom_ops]):
        freed = free_batch(_with_custom_operators(canonical(unpack_constants(proto)), path))
    if freed.reason is not None:
        entry = freed.model.metadata_props.add()
        entry.key, entry.value = FIXED_BATCH_NOTE, freed.reason
    return OnnxModel(freed.model, declared(signature_of(freed.model.graph, path, params.batch_axes), params))


def declared(signature: Signature, params: OnnxParams) -> Signature:
    """With what a recipe says about states and constants. Raises UsageError where it does not fit the file."""
    if not params.states and not params.constants:
        return signature
    return with_states(signature, params.states, params.constants)


def fingerprint(params: OnnxParams, base: Path) -> str:
    """Covers the file and the files of its external data, and not where they lie if that is an address."""
    from compressctl.graph.model_file import external_files

    libraries = {f"custom_ops/{name}": library(name, base) for name in params.custom_ops}
    if is_address(params.path):
        params = pinned(params)
        contents = {"model": str(params.sha256).lower(), **{name: one.lower() for name, one in params.external.items()}}
        contents |= {name: hash_file(path) for name, path in libraries.items()}
        return contents_fingerprint("onnx", VERSION, params, contents, ["path"])
    path = local_model(params, base)
    return source_fingerprint("onnx", VERSION, params, {"model": path, **external_files(_parsed(path)), **libraries})


def signature_of(graph: onnx.GraphProto, path: Path, batch_axes: Mapping[str, int | None] | None = None) -> Signature:
    """The graph's inputs and outputs; constants listed among the inputs are none. batch_axes: by input, what a recipe says.

    Sizes of 0 and below are open axes, as some exporters write them. Raises UsageError for non-tensors, and for batch_axes
    that name no input or no axis of it.
    """
    constants = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_tensor(value, path) for value in graph.input if value.name not in constants)
    _check_sizes(inputs, path)
    _check_batch_axes(inputs, batch_axes or {}, path)
    return with_batch_axes(inputs, tuple(_tensor(value, path) for value in graph.output), batch_axes)


def _check_sizes(inputs: Sequence[TensorSpec], path: Path) -> None:
    """What a file fixes about its inputs is what every call takes, in each of many processes."""
    for spec in inputs:
        count = math.prod(size for size in spec.shape if isinstance(size, int))
        if count > _MOST_NUMBERS:
            raise UsageError(
                f"{path}: one call takes {count:,} numbers as {spec.name}, more than the {_MOST_NUMBERS:,} that are tried",
                hint="export the model with an open batch axis",
            )


def _check_batch_axes(inputs: Sequence[TensorSpec], batch_axes: Mapping[str, int | None], path: Path) -> None:
    by_name = {spec.name: spec for spec in inputs}
    for name, axis in batch_axes.items():
        if name not in by_name:
            raise UsageError(f"model.batch_axes: {path} has no input {name!r}", hint=f"it has {', '.join(by_name)}")
        rank = len(by_name[name].shape)
        if axis is not None and axis >= rank:
            raise UsageError(
                f"model.batch_axes: {name} has {rank} axes, counted from 0", hint=f"choose 0 to {rank - 1}"
            )


def read_onnx(path: Path) -> onnx.ModelProto:
    """The file as it is, checked, large constants left in their files; sizes of 0 and below are left open.

    Raises UsageError when it is not a valid ONNX model.
    """
    from compressctl.graph.model_file import check, external_files, fill
    from compressctl.graph.open_axes import open_sizes

    parsed = _parsed(path)
    if not parsed.model.graph.node:
        raise _not_onnx(path, ValueError("it has no nodes"))
    external_files(parsed)
    try:
        check(parsed)
    except Exception as error:
        raise _invalid(path, error) from error
    proto = fill(parsed)
    open_sizes(proto.graph)
    return proto


def metadata(path: Path) -> dict[str, str]:
    """What the file says of itself, by key. Raises UsageError when it is not ONNX."""
    from compressctl.graph import model_file

    return model_file.metadata(_parsed(path).model)


def _parsed(path: Path) -> Parsed:
    from compressctl.graph.model_file import parse

    try:
        return parse(existing(path, what="the ONNX file"))
    except UsageError:
        raise
    except (OSError, MemoryError) as error:
        raise refusal(error) or _not_onnx(path, error) from error
    except Exception as error:
        raise _not_onnx(path, error) from error


def _invalid(path: Path, error: Exception) -> UsageError:
    """The checker's complaint in one line, with the node that it is about, and what to do."""
    text = " ".join(str(error).split())
    text = re.sub(r" ?==> Context: Bad node spec for node\. Name: (\S*) OpType: (\w+)", r" (node '\1', \2)", text)
    text = re.sub(r"of node: name: (\S*) OpType: (\w+)", r"of node '\1' (\2)", text)
    hint = next((hint for pattern, hint in _MENDED if re.search(pattern, text)), None)
    return UsageError(f"{path} is not a valid ONNX model: {text}", hint=hint)


_MENDED = (
    (r"ir_version \d+ is higher", "run: pip install --upgrade onnx, or save the model with an older ir_version"),
    (
        r"No Op registered",
        "export it with standard operators of that opset, or give a custom operator a domain of its own",
    ),
    (r"topologically sorted", "the tensor is made by no node before that one: export the model again"),
    (r"Field 'shape'", "an input or output has no shape: save onnx.shape_inference.infer_shapes(model) instead"),
)
"""Source: onnx.checker's messages, onnx 1.17 to 1.23."""


def _not_onnx(path: Path, error: Exception) -> UsageError:
    if path.suffix.lower() == ".cctl":
        return UsageError(
            f"{path} is a packed file", hint=f"compressctl unpack {path}   gives the ONNX file that it holds"
        )
    return UsageError(f"{path} is not an ONNX model: {first_line(error)}")


def _with_custom_operators(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model, which knows the types of what libraries' operators make. Raises UsageError where no library brings one."""
    from compressctl.graph.custom_nodes import custom_nodes, operators, with_types

    nodes = custom_nodes(proto)
    if not nodes:
        return proto
    if not known():
        name = EXTENSIONS if any(node.domain in _OF_EXTENSIONS for node in nodes) else "library.so"
        raise UsageError(
            f"{path} needs operators that ONNX Runtime does not bring: {operators(nodes)}",
            hint=f"add the library that brings them to `model`, as in `custom_ops: [{name}]`, or export it again with standard operators",
        )
    try:
        return with_types(proto)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{path} cannot be opened with {', '.join(map(name_of, known()))}: {first_line(error)}",
            hint=f"it needs {operators(nodes)}",
        ) from error


_OF_EXTENSIONS = ("ai.onnx.contrib", "com.microsoft.extensions")
"""Domains of onnxruntime-extensions. Source: its pyop.py and ocos.cc."""


def _tensor(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    if not value.type.HasField("tensor_type"):
        from compressctl.graph.summary import type_in_words

        raise UsageError(
            f"{path}: {value.name} is a {type_in_words(value.type)}, and only tensors can be fed and compared",
            hint="convert a scikit-learn model with options={'zipmap': False}; of others, cut off the nodes behind the last tensor",
        )
    if not value.type.tensor_type.HasField("shape"):
        raise UsageError(
            f"{path}: {value.name} is not a tensor with a shape",
            hint="run onnx.shape_inference.infer_shapes on the model",
        )
    tensor_type = value.type.tensor_type
    return TensorSpec(
        value.name,
        _dtype(value, path),
        tuple(
            dim.dim_value if dim.dim_value > 0 else dim.dim_param or _unnamed(value.name, axis)
            for axis, dim in enumerate(tensor_type.shape.dim)
        ),
    )


def _dtype(value: onnx.ValueInfoProto, path: Path) -> str:
    from onnx import helper

    element = value.type.tensor_type.elem_type
    try:
        return str(helper.tensor_dtype_to_np_dtype(element).name)
    except KeyError:
        raise UsageError(f"{path}: {value.name} holds elements of a type that onnx does not know, {element}") from None


def _unnamed(tensor: str, axis: int) -> str:
    return "batch" if axis == 0 else f"{tensor}.{axis}"
