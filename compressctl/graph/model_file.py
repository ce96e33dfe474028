"""ONNX files read and written constant by constant: their weights are never in memory together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto

from compressctl.core.errors import UsageError
from compressctl.core.external_data import ExternalPlace, check_location, external_place
from compressctl.core.regular_files import check_regular, read_regular
from compressctl.graph.index import all_graphs
from compressctl.graph.tensors import (
    LARGE,
    all_tensors,
    bring_in,
    copy_of,
    is_in_data_file,
    is_in_file,
    move_to_files,
    numbers,
    refer,
    size_bytes,
)

LARGEST_SINGLE_FILE = 1_500_000_000
"""Bytes. Protobuf messages end at 2 GiB, and a runtime holds a file's weights twice while it loads them: a larger graph keeps
its weights in a file beside it."""

_READ_WHOLE = 16 * 1024**2
"""Bytes of a file up to which it costs nothing to read all of it."""

_PAGE = 4096
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9


@dataclass(frozen=True)
class Parsed:
    """A file without the numbers of its external data. cut: constants whose numbers were left in the file, by offset and length."""

    path: Path
    model: ModelProto
    cut: list[tuple[TensorProto, int, int]]


def read_model(path: Path) -> ModelProto:
    """The model with large constants left in its file, or in the files of its external data. Raises what parse and fill do."""
    return fill(parse(path))


def parse(path: Path) -> Parsed:
    """Raises protobuf's DecodeError for what is no model, UsageError for tensors that cannot be, and OSError."""
    path = path.absolute()
    parsed = _parsed(path)
    for tensor in all_tensors(parsed.model):
        if tensor.data_type not in _TYPES:
            raise UsageError(
                f"{path}: {tensor.name} holds elements of a type that onnx does not know, {tensor.data_type}"
            )
        if min(tensor.dims, default=0) < 0:
            raise UsageError(f"{path}: {tensor.name} has an axis of a negative size, {min(tensor.dims)}")
    for graph in all_graphs(parsed.model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type not in _TYPES:
                raise UsageError(f"{path}: {value.name} is said to hold a type that onnx does not know")
    return parsed


def _parsed(path: Path) -> Parsed:
    if check_regular(path).st_size > _READ_WHOLE:
        from compressctl.packed.errors import PackedError

        try:
            return _cut(path, memoryview(np.memmap(path, np.uint8, "r")))  # type: ignore[arg-type]
        except PackedError:
            pass  # protobuf says the same in its own words
    return Parsed(path, ModelProto.FromString(read_regular(path)), [])


def external_files(parsed: Parsed) -> dict[str, Path]:
    """Every file that external data is in, by what the model calls it, none of them opened. Raises UsageError, as `fill`."""
    return {
        place.location: place.file
        for tensor in all_tensors(parsed.model)
        if is_in_file(tensor)
        for place in [_external_place(tensor, parsed.path)]
    }


def external_names(parsed: Parsed) -> list[str]:
    """What the model calls the files of its external data, each once. Raises UsageError for what is no path downwards."""
    places = (
        entry.value
        for tensor in all_tensors(parsed.model)
        if is_in_file(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    )
    names = list(dict.fromkeys(places))
    for name in names:
        check_location(parsed.path, name)
    return names


def check(parsed: Parsed) -> None:
    """Raises onnx's ValidationError for an invalid model, ValueError for names that are no text.

    What it keeps in other files is `external_files`' to check.
    """
    for name in _names(parsed.model.graph):
        if isinstance(name, bytes):
            raise ValueError(f"a name is not UTF-8 text: {name!r}")
    check_model(parsed.model, {tensor.name for tensor, _, _ in parsed.cut})


def _names(graph: GraphProto) -> Iterator[str]:
    """Those that the checker does not look at. protobuf gives bytes for what is no text."""
    for part in all_graphs(graph):
        yield part.name
        for node in part.node:
            yield from (node.name, node.domain, node.op_type, *(entry.name for entry in node.attribute))


def metadata(model: ModelProto) -> dict[str, str]:
    """What the model says of itself, by key; what is no text is left out."""
    found = {entry.key: entry.value for entry in model.metadata_props}
    return {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, str)}


def check_model(model: ModelProto, emptied: set[str] | None = None) -> None:
    """The checker on a model in memory, whatever its size."""
    small = copy_of(model)
    for tensor in all_tensors(small):
        if is_in_file(tensor) or tensor.name in (emptied or ()):
            del tensor.external_data[:], tensor.dims[:]
            tensor.data_location = TensorProto.DEFAULT
            tensor.dims.append(0)
    onnx.checker.check_model(small)


def fill(parsed: Parsed) -> ModelProto:
    """The model whose constants have numbers: small ones in memory, large ones in their files.

    Raises UsageError for external data outside the model's folder, or that is not all there.
    """
    for tensor in all_tensors(parsed.model):
        if is_in_file(tensor):
            _find(tensor, parsed.path)
    for tensor, offset, length in parsed.cut:
        refer(tensor, parsed.path, offset, length)
    return parsed.model


def _find(tensor: TensorProto, path: Path) -> None:
    """Refer to where the numbers of external data are, or bring in few of them."""
    place = _external_place(tensor, path)
    refer(tensor, place.file, place.offset, place.length)
    if place.length < LARGE:
        bring_in(tensor)


def _external_place(tensor: TensorProto, path: Path) -> ExternalPlace:
    said = {entry.key: entry.value for entry in tensor.external_data}
    return external_place(path, tensor.name, said, size_bytes(tensor))


def _cut(path: Path, data: memoryview) -> Parsed:
    """The message without the numbers of large initializers of the main graph."""
    outer, graph = bytearray(), bytearray()
    tensors: list[tuple[TensorProto, int, int]] = []
    for number, field, start, end in _delimited(data, 0, len(data)):
        if number != _GRAPH:
            outer += field
            continue
        for inner, part, first, last in _delimited(data, start, end):
            if inner == _INITIALIZER:
                tensors.append(_without_numbers(data, first, last))
            else:
                graph += part
    model = ModelProto.FromString(bytes(outer))
    model.graph.MergeFromString(bytes(graph))
    model.graph.initializer.extend(tensor for tensor, _, _ in tensors)
    places = zip(model.graph.initializer, tensors, strict=True)
    return Parsed(path, model, [(tensor, start, length) for tensor, (_, start, length) in places if length])


def _without_numbers(data: memoryview, start: int, end: int) -> tuple[TensorProto, int, int]:
    """A tensor, and where its numbers were left; whole and 0, 0 where they are few, or not as many as its shape says."""
    parts = list(_delimited(data, start, end))
    raw = [(first, last - first) for number, _, first, last in parts if number == _RAW_DATA]
    if len(raw) == 1 and raw[0][1] >= LARGE:
        head = TensorProto.FromString(b"".join(bytes(part) for number, part, _, _ in parts if number != _RAW_DATA))
        if head.data_type in _REGULAR and size_bytes(head) == raw[0][1]:
            return head, *raw[0]
    return TensorProto.FromString(bytes(data[start:end])), 0, 0


_TYPES = frozenset(TensorProto.DataType.values())
_REGULAR = _TYPES - {TensorProto.UNDEFINED, TensorProto.STRING}


def _delimited(data: memoryview, start: int, end: int) -> Iterator[tuple[int, memoryview, int, int]]:
    """Each field's number, all of its bytes, and where its content begins and ends."""
    from compressctl.packed.onnx_bytes import fields

    at = start
    for number, _, first, last in fields(data, start, end):
        yield number, data[at:last], first, last
        at = last


def write_model(model: ModelProto, folder: Path) -> tuple[Path, ...]:
    """Write model.onnx and return its files, that first. The same model gives the same bytes.

    Large constants go to model.onnx.data beside it from 1.5 GB on, and where some of them lay beside a model before.
    """
    path, beside = folder / "model.onnx", folder / "model.onnx.data"
    tensors = list(filter(is_in_file, all_tensors(model)))
    in_files = sum(map(size_bytes, tensors))
    if any(map(is_in_data_file, tensors)) or model.ByteSize() + in_files > LARGEST_SINGLE_FILE:
        path.write_bytes(_with_data_beside(model, beside).SerializeToString(deterministic=True))
        return path, beside
    with path.open("wb") as file:
        file.writelines(_pieces(model) if in_files else [model.SerializeToString(deterministic=True)])
    return (path,)


def _with_data_beside(model: ModelProto, file: Path) -> ModelProto:
    """A copy whose large constants are external data in a file, which is written."""
    moved = copy_of(model)
    move_to_files(moved)
    with file.open("wb") as written:
        for tensor in all_tensors(moved):
            if not is_in_file(tensor):
                continue
            written.write(bytes(-written.tell() % _PAGE))
            said = {"location": file.name, "offset": written.tell(), "length": written.write(_data(tensor))}
            del tensor.external_data[:]
            for key, value in said.items():
                tensor.external_data.add(key=key, value=str(value))
    return moved


def _pieces(model: ModelProto) -> Iterator[bytes | memoryview]:
    """The model as one message, piece by piece: what is around the initializers of the main graph, then these."""
    outer = copy_of(model)
    outer.graph.ClearField("initializer")
    for tensor in all_tensors(outer):
        if is_in_file(tensor):
            bring_in(tensor)
    graph: list[bytes | memoryview] = [outer.graph.SerializeToString(deterministic=True)]
    outer.ClearField("graph")
    for tensor in model.graph.initializer:
        parts: list[bytes | memoryview] = []
        if is_in_file(tensor):
            head = TensorProto()
            head.CopyFrom(tensor)
            head.ClearField("external_data")
            head.ClearField("data_location")
            data = _data(tensor)
            parts = [head.SerializeToString(deterministic=True), *_key(_RAW_DATA, len(data)), data]
        else:
            parts = [tensor.SerializeToString(deterministic=True)]
        graph += [*_key(_INITIALIZER, sum(map(len, parts))), *parts]
    yield outer.SerializeToString(deterministic=True)
    yield from _key(_GRAPH, sum(map(len, graph)))
    yield from graph


def _key(number: int, length: int) -> tuple[bytes, bytes]:
    """What stands before a field of so many bytes."""
    from compressctl.packed.cursor import varint

    return varint(number << 3 | 2), varint(length)


def _data(tensor: TensorProto) -> memoryview:
    return memoryview(numbers(tensor))  # type: ignore[arg-type]
