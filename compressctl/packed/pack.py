"""An ONNX file, its external data included, as one packed file."""

from __future__ import annotations

import hashlib
import lzma
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compressctl.core.regular_files import check_regular
from compressctl.core.whole_files import write_whole
from compressctl.packed.bits import UNSIGNED, Bits
from compressctl.packed.cursor import varint
from compressctl.packed.decode import lzma_filters
from compressctl.packed.elements import ELEMENTS, Element
from compressctl.packed.encode import encode
from compressctl.packed.errors import PackedError, naming
from compressctl.packed.ledger import (
    BODY_BYTES,
    DIGEST_BYTES,
    MAGIC,
    VERSION,
    Body,
    Entry,
    Ledger,
    StoredFile,
    check_name,
    free_ranges,
    write_ledger,
)
from compressctl.packed.onnx_bytes import EXTERNAL, VARINTS, Place, tensor_places

_SMALL, _TINY = 2048, BODY_BYTES
"""Bytes up to which lists of one type, and tensors of any shape, are coded together: each alone would need tables of its own."""

_OPAQUE = Element("bytes", 8)


def pack(model: Path, packed: Path) -> Ledger:
    """Write `packed` from the ONNX file `model`; it appears when it is whole. Returns its ledger.

    Raises PackedError when the file is no ONNX model or its external data is not there.
    """
    files = _Files.of(model)
    plan = _planned(files)
    coded = [_encoded(group, files) for group in plan.groups]
    bodies = tuple(Body(len(data), checksum, size, *shape) for data, checksum, size, shape in coded)
    rests = [_rest(position, data, plan.entries) for position, data in enumerate(files.data)]
    stored = tuple(
        StoredFile(name, len(data), rest) for name, data, rest in zip(files.names, files.data, rests, strict=True)
    )
    ledger = Ledger(stored, bodies, tuple(plan.entries))
    head = write_ledger(ledger)
    squeezed = lzma.compress(head, lzma.FORMAT_RAW, filters=lzma_filters(len(head)))
    start = MAGIC + bytes([VERSION]) + varint(len(head)) + varint(len(squeezed)) + squeezed
    _write(packed, [start, *(data for data, *_ in coded)])
    return ledger


@dataclass
class _Files:
    """The model and the files of its external data, mapped into memory. names: "" for the model."""

    names: list[str]
    data: list[memoryview]
    places: list[Place]

    @classmethod
    def of(cls, model: Path) -> _Files:
        mapped = _mapped(model)
        with naming(model):
            places = tensor_places(mapped, model)
        names = list(dict.fromkeys(place.location for place in places if place.written_as == EXTERNAL))
        for name in names:
            check_name(name)
        return cls(["", *names], [mapped, *(_mapped(model.parent / name) for name in names)], places)


def _mapped(file: Path) -> memoryview:
    try:
        size = check_regular(file).st_size
        return memoryview(np.memmap(file, np.uint8, "r")) if size else memoryview(b"")  # type: ignore[arg-type]
    except OSError as error:
        raise PackedError(f"cannot read {file}: {error.strerror}") from None


@dataclass
class _Group:
    """What is coded together."""

    element: Element
    parts: list[tuple[int, int, int]]
    shape: tuple[int, ...] | None = None


@dataclass
class _Plan:
    groups: list[_Group] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


def _planned(files: _Files) -> _Plan:
    """Each tensor's body and place in it. Equal tensors share one."""
    plan = _Plan()
    seen: dict[tuple[bytes, str], tuple[int, int]] = {}
    pools: dict[str, int] = {}
    filled: dict[int, int] = {}
    for place in files.places:
        file = files.names.index(place.location)
        numbers = files.data[file][place.start : place.start + place.length]
        if len(numbers) != place.length:
            raise PackedError(f"tensor {place.name}: its numbers lie beyond the end of {place.location or 'the file'}")
        if not place.is_regular and place.written_as != VARINTS:
            continue
        element = _OPAQUE if place.written_as == VARINTS else ELEMENTS[place.data_type]
        key = hashlib.blake2b(numbers).digest(), element.name
        if place.length and key not in seen:
            is_small = place.length <= (_SMALL if len(place.shape) < 2 else _TINY)
            body = pools.setdefault(element.name, len(plan.groups)) if is_small else len(plan.groups)
            if body == len(plan.groups):
                plan.groups.append(_Group(element, [], None if is_small else place.shape))
            plan.groups[body].parts.append((file, place.start, place.length))
            seen[key] = body, filled.get(body, 0)
            filled[body] = filled.get(body, 0) + place.length
        body, offset = seen.get(key, (0, 0))
        plan.entries.append(
            Entry(
                place.name,
                place.data_type,
                place.shape,
                place.written_as,
                file,
                place.start,
                place.length,
                body,
                offset,
            )
        )
    return plan


def _encoded(group: _Group, files: _Files) -> tuple[bytes, int, int, tuple[int, int]]:
    """The coded bytes, the checksum of the raw ones, the size of a number, and the shape (rows, columns)."""
    raw = b"".join(bytes(files.data[file][start : start + length]) for file, start, length in group.parts)
    values = _matrix(raw, group)
    is_packed = values.dtype.itemsize == 1 and group.shape is not None and not group.element.is_float
    coded = encode(values, group.element.is_float, is_packed)
    return coded, zlib.crc32(raw), values.dtype.itemsize, values.shape


def _matrix(raw: bytes, group: _Group) -> Bits:
    """A row for each output where the tensor has such an axis."""
    values = np.frombuffer(raw, UNSIGNED[group.element.size])
    rows = group.shape[0] if group.shape and len(group.shape) > 1 else 1
    return values.reshape(rows if rows and len(values) % rows == 0 else 1, -1)


def _rest(position: int, data: memoryview, entries: list[Entry]) -> bytes:
    """The bytes of a file that belong to no tensor."""
    covered = [(entry.start, entry.start + entry.length) for entry in entries if entry.file == position]
    return b"".join(bytes(data[start:end]) for start, end in free_ranges(covered, len(data)))


def _write(packed: Path, parts: list[bytes]) -> None:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    write_whole(packed, [*parts, digest.digest()])
