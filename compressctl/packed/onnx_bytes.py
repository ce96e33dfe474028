"""Where the numbers of tensors stand in the bytes of an ONNX file, found without a protobuf library.

A packed file keeps every other byte as it is, so that a model comes back byte by byte whatever wrote it. Field numbers are
those of onnx.proto3; a field that is not known is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from compressctl.core.external_data import external_place
from compressctl.packed.elements import ELEMENTS
from compressctl.packed.errors import PackedError

RAW, FLOATS, DOUBLES, VARINTS, EXTERNAL = range(5)
"""How a tensor's numbers are written: raw_data, float_data, double_data, one of the fields of varints, or in another file."""

_FIELDS = {9: RAW, 4: FLOATS, 10: DOUBLES, 5: VARINTS, 7: VARINTS, 11: VARINTS}

_MODEL = {7: "graph", 25: "function"}
_INSIDE: dict[str, dict[int, str]] = {
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DEEPEST = 64


@dataclass(frozen=True)
class Place:
    """The numbers of one tensor: `length` bytes from `start` on, in the model's file or, for EXTERNAL, in `location`.

    name: the tensor's own, or that of the node and attribute which hold it. data_type: a key of ELEMENTS.
    """

    name: str
    data_type: int
    shape: tuple[int, ...]
    written_as: int
    start: int
    length: int
    location: str = ""

    @property
    def is_regular(self) -> bool:
        """Whether the bytes are just the elements, one after the other."""
        element = ELEMENTS.get(self.data_type)
        if element is None or self.written_as == VARINTS:
            return False
        return self.length == element.bytes_of(prod(self.shape))


def tensor_places(model: memoryview, path: Path) -> list[Place]:
    """All tensors with numbers, in the order of the file. path: where the model is.

    Raises PackedError when the bytes are not an ONNX model, UsageError for external data that is not where the model says.
    """
    found: list[Place] = []
    for number, wire, start, end in fields(model, 0, len(model)):
        if number in _MODEL and wire == _BYTES:
            _search(model, path, _MODEL[number], start, end, "", found, 0)
    return found


def _search(
    model: memoryview, path: Path, kind: str, start: int, end: int, owner: str, found: list[Place], depth: int
) -> None:
    if depth > _DEEPEST:
        raise PackedError("the model's graphs are nested too deeply")
    if kind == "tensor":
        _add(model, path, start, end, owner, found)
        return
    owner = _owner(model, kind, start, end, owner)
    for number, wire, first, last in fields(model, start, end):
        inner = _INSIDE[kind].get(number)
        if inner is not None and wire == _BYTES:
            _search(model, path, inner, first, last, owner, found, depth + 1)


def _owner(model: memoryview, kind: str, start: int, end: int, owner: str) -> str:
    """A name for what has none itself: a node by its first output, an attribute behind its node."""
    number = {"node": 2, "attribute": 1}.get(kind)
    for found, wire, first, last in fields(model, start, end) if number else ():
        if found == number and wire == _BYTES:
            name = _text(model, first, last)
            return name if kind == "node" else f"{owner}.{name}"
    return owner


@dataclass
class _Tensor:
    name: str = ""
    data_type: int = 0
    shape: list[int] = field(default_factory=list)
    numbers: list[tuple[int, int, int]] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False


def _add(model: memoryview, path: Path, start: int, end: int, owner: str, found: list[Place]) -> None:
    tensor = _read(model, start, end)
    name, shape = tensor.name or owner, tuple(tensor.shape)
    if tensor.is_external:
        element = ELEMENTS.get(tensor.data_type)
        if element is None:
            raise PackedError(f"tensor {name} is in another file, and holds elements of no type that could be there")
        place = external_place(path, name, tensor.external, element.bytes_of(prod(shape)))
        found.append(Place(name, tensor.data_type, shape, EXTERNAL, place.offset, place.length, place.location))
    elif len(tensor.numbers) == 1:
        written_as, first, last = tensor.numbers[0]
        found.append(Place(name, tensor.data_type, shape, written_as, first, last - first))


def _read(model: memoryview, start: int, end: int) -> _Tensor:
    tensor = _Tensor()
    for number, wire, first, last in fields(model, start, end):
        if number == 1:
            tensor.shape += _numbers(model, wire, first, last)
        elif number == 2 and wire == _VARINT:
            tensor.data_type = first
        elif number == 8 and wire == _BYTES:
            tensor.name = _text(model, first, last)
        elif number == 13 and wire == _BYTES:
            entry = {key: _text(model, a, b) for key, kind, a, b in fields(model, first, last) if kind == _BYTES}
            tensor.external[entry.get(1, "")] = entry.get(2, "")
        elif number == 14 and wire == _VARINT:
            tensor.is_external = first == 1
        elif number in _FIELDS and wire == _BYTES:
            tensor.numbers.append((_FIELDS[number], first, last))
    return tensor


def _numbers(model: memoryview, wire: int, first: int, last: int) -> list[int]:
    if wire == _VARINT:
        return [first]
    found, at = [], first
    while wire == _BYTES and at < last:
        value, at = _varint(model, at, last)
        found.append(value)
    return found


_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def fields(model: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start and end of its bytes); for a varint its value stands for the start."""
    at = start
    while at < end:
        key, at = _varint(model, at, end)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(model, at, end)
            yield number, wire, value, at
            continue
        length = {_EIGHT: 8, _FOUR: 4}.get(wire)
        if wire == _BYTES:
            length, at = _varint(model, at, end)
        if length is None or length > end - at or not number:
            raise PackedError("not an ONNX model: its bytes are no protobuf message", hint="is the file complete?")
        yield number, wire, at, at + length
        at += length


def _varint(model: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = model[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise PackedError("not an ONNX model: its bytes are no protobuf message", hint="is the file complete?")


def _text(model: memoryview, first: int, last: int) -> str:
    return str(model[first:last], "utf-8", "replace")
