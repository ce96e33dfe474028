"""A graph in memory, opened in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnxruntime

from compressctl.core.custom_ops import register
from compressctl.core.machine import library_threads
from compressctl.graph.tensors import (
    ROOT,
    all_tensors,
    bring_in,
    copy_of,
    is_in_file,
    move_to_files,
    numbers,
    size_bytes,
)

_LARGEST_PACKED = 1 << 30
"""Bytes of constants in files up to which kernels may make copies of their own, arranged for them: above it they would be a second network
in memory, for a tenth of the time."""

_LARGEST_MESSAGE = 1_800_000_000
"""Bytes; protobuf messages end at 2 GiB."""


def quiet_options() -> onnxruntime.SessionOptions:
    """What goes wrong is raised, and not printed too."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = library_threads()
    options.log_severity_level = 4
    return options


def open_graph(
    model: onnx.ModelProto,
    options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> onnxruntime.InferenceSession:
    """The runtime maps constants that stand in files. Raises what it raises, and UsageError for a library of operators."""
    options = options or quiet_options()
    register(options)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(ROOT))
    if sum(size_bytes(tensor) for tensor in all_tensors(model) if is_in_file(tensor)) > _LARGEST_PACKED:
        options.add_session_config_entry("session.disable_prepacking", "1")
    message = _readable(model).SerializeToString()
    return onnxruntime.InferenceSession(message, options, providers=list(providers))


def _readable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, or a copy in which kernels find every number aligned and protobuf all of it in one message."""
    is_aligned = all(_is_aligned(tensor) for tensor in all_tensors(model) if is_in_file(tensor))
    if is_aligned and model.ByteSize() <= _LARGEST_MESSAGE:
        return model
    made = copy_of(model)
    for tensor in all_tensors(made):
        if is_in_file(tensor) and not _is_aligned(tensor):
            bring_in(tensor)
    return move_to_files(made)


def _is_aligned(tensor: onnx.TensorProto) -> bool:
    return numbers(tensor).ctypes.data % 16 == 0
