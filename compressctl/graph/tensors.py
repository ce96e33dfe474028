"""A graph's constants as arrays. Large ones stay in files, however often the graph is copied, and are mapped where they are read.

In memory such a tensor is ONNX external data whose location counts from the root of the file system, since the weights of one
graph may lie in several folders; its checksum holds the size of the file and when it was last changed. Files are written by
`model_file.py`, and graphs are run by `session.py`.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.errors import StageError
from compressctl.core.regular_files import open_regular
from compressctl.core.whole_files import lock, remove_unlocked

ROOT = Path(os.sep)
"""What the locations of external data count from in memory."""

LARGE = 256 * 1024
"""Bytes from which on the numbers of a constant stay in a file. Below it a reference costs more than it saves."""


def to_array(tensor: TensorProto) -> np.ndarray:
    """The numbers, read-only: mapped where they stand in a file. Raises StageError when that file was changed since."""
    if not is_in_file(tensor):
        kind = _PLAIN.get(tensor.data_type)
        raw = tensor.raw_data if kind is not None else b""
        return np.frombuffer(raw, kind).reshape(tensor.dims) if raw else numpy_helper.to_array(tensor)
    data = numbers(tensor)
    if _bits(tensor.data_type) < 8:
        whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data.tobytes())
        return numpy_helper.to_array(whole)
    return data.view(helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tensor.dims)


_PLAIN: Mapping[int, np.dtype] = {TensorProto.FLOAT: np.dtype("<f4"), TensorProto.INT64: np.dtype("<i8")}
"""What onnx would ask many tables about for each of many small constants."""


def from_array(values: np.ndarray, name: str | None = None) -> TensorProto:
    """A constant of these numbers. Large ones go to a file that lives as long as this process."""
    if values.nbytes < LARGE or values.dtype.newbyteorder("=") != values.dtype or values.dtype.kind not in "fiub":
        tensor = numpy_helper.from_array(values, name)  # 4-bit numbers, each in a byte here, are packed
        _move_to_file(tensor)
        return tensor
    tensor = TensorProto(dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), name=name)
    refer(tensor, _kept(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data), 0, values.nbytes)
    return tensor


def kept(values: np.ndarray) -> np.ndarray:
    """The same numbers, of a large array mapped from a file of its own: it takes no memory while nobody reads it."""
    return to_array(from_array(np.ascontiguousarray(values)))


def is_in_file(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def is_in_data_file(tensor: TensorProto) -> bool:
    """Whether its numbers are external data of the model that was read, in a file of nothing but numbers."""
    if not is_in_file(tensor):
        return False
    file = Path(tensor.external_data[0].value)
    return file.suffix != ".onnx" and not any(part.startswith(_PREFIX) for part in file.parts)


def size_bytes(tensor: TensorProto) -> int:
    """What its numbers take."""
    return stored_bytes(math.prod(tensor.dims), int(tensor.data_type))


def message_bytes(tensor: TensorProto) -> int:
    """What it takes in a file with its name and shape."""
    return int(tensor.ByteSize()) + (size_bytes(tensor) if is_in_file(tensor) else 0)


def stored_bytes(elements: int, data_type: int) -> int:
    """Four-bit types pack two to a byte, two-bit types four."""
    return (elements * _bits(data_type) + 7) // 8


@cache
def _bits(data_type: int) -> int:
    name = TensorProto.DataType.Name(data_type)
    known = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "STRING": 0, "UNDEFINED": 0}
    return known[name] if name in known else 8 * int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def content(tensor: TensorProto) -> tuple[object, ...]:
    """Equal for constants of equal type, shape and numbers."""
    data = numbers(tensor) if is_in_file(tensor) else to_array(tensor).tobytes()
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(data).digest()  # type: ignore[arg-type]


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor that a model stores: initializers and attributes, those in bodies and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def move_to_files(model: onnx.ModelProto) -> onnx.ModelProto:
    """Large constants that stand in the model go to files, in place; returns the model."""
    for tensor in all_tensors(model):
        if not is_in_file(tensor):
            _move_to_file(tensor)
    return model


def numbers(tensor: TensorProto) -> np.ndarray:
    """The bytes in the file that a constant refers to, uint8, mapped. Raises StageError when the file was changed since."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    start = int(said["offset"])
    if said["length"] == "0":
        return np.empty(0, np.uint8)
    return _mapped(ROOT / said["location"], said["checksum"])[start : start + int(said["length"])]


def refer(tensor: TensorProto, file: Path, offset: int, length: int) -> None:
    """Let a constant's numbers be those in a file, in place. file: an absolute path."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    location = file.relative_to(ROOT).as_posix()
    said = {"location": location, "offset": offset, "length": length, "checksum": _stamp(file)}
    for key, value in said.items():
        tensor.external_data.add(key=key, value=str(value))


def bring_in(tensor: TensorProto) -> None:
    """Put the numbers that a constant refers to into it, in place."""
    tensor.raw_data = numbers(tensor).tobytes()
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model to be changed; constants that stand in files are shared."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def scratch_folder(called: str) -> Path:
    """A new folder for files that live as long as this process."""
    return Path(tempfile.mkdtemp(dir=_folder(), prefix=f"{called}-"))


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _of_graph(attribute.g)
            for graph in attribute.graphs:
                yield from _of_graph(graph)


def _move_to_file(tensor: TensorProto) -> None:
    if size_bytes(tensor) < LARGE:
        return
    data = tensor.raw_data or numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    refer(tensor, _kept(data), 0, len(data))
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)


_mappings: WeakValueDictionary[tuple[Path, str], np.ndarray] = WeakValueDictionary()


def _mapped(file: Path, stamp: str) -> np.ndarray:
    if _stamp(file) != stamp:
        raise StageError(
            f"{file} was changed or removed while it was in use",
            hint="run the command again, and leave the model's files alone until it ends",
        )
    found = _mappings.get((file, stamp))
    if found is None:
        with open_regular(file) as opened:
            found = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        _mappings[file, stamp] = found
    return found


def _stamp(file: Path) -> str:
    with suppress(OSError):
        found = file.stat()
        return f"{found.st_size}-{found.st_mtime_ns}"
    return ""


def _kept(data: bytes | memoryview) -> Path:
    """A file of these bytes: one for all constants that are equal."""
    file = _folder() / hashlib.sha256(data).hexdigest()
    if not file.exists():
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as written:
            written.write(data)
        Path(written.name).replace(file)
    return file


_PREFIX = "compressctl-constants-"


@cache
def _folder() -> Path:
    """This process's own. A process that is killed leaves its folder, which the next one removes: nothing holds its lock."""
    root = Path(tempfile.gettempdir()).resolve()
    folder = Path(tempfile.mkdtemp(dir=root, prefix=".compressctl-"))
    locked = lock(folder)
    for left in root.glob(f"{_PREFIX}*"):
        remove_unlocked(left)
    named = folder.rename(root / f"{_PREFIX}{folder.name.rpartition('-')[2]}")
    atexit.register(_remove, named, os.getpid(), locked)
    return named


def _remove(folder: Path, owner: int, _: int | None) -> None:
    """By the process that made it alone: one that was forked from it ends earlier."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
