"""A packed file, open: its ledger, its tensors one at a time, and the files that it was made from."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from compressctl.core.regular_files import open_regular
from compressctl.core.whole_files import FileInWriting
from compressctl.packed.cursor import Cursor
from compressctl.packed.decode import decode, unpack_lzma
from compressctl.packed.elements import ELEMENTS
from compressctl.packed.errors import PackedError, damaged, naming
from compressctl.packed.ledger import (
    DIGEST_BYTES,
    LARGEST_HEAD,
    LEAST_LEDGER,
    MAGIC,
    TRUST,
    VERSION,
    Entry,
    Ledger,
    free_ranges,
    read_ledger,
)
from compressctl.packed.onnx_bytes import VARINTS

Array = NDArray[Any]

MAX_BYTES = 4 << 30
"""What a file may unpack to unless the caller allows more."""

_START = len(MAGIC) + 1 + 18
_CHUNK = 1 << 20


@dataclass(frozen=True)
class TensorLine:
    """One tensor in the ledger as a reader sees it.

    packed_bytes: its part of what it was coded with, by raw bytes; 0 for a tensor that is stored with an equal one."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    coding: str
    packed_bytes: int
    raw_bytes: int

    @property
    def values(self) -> int:
        return prod(self.shape)


class PackedModel:
    """A packed file, open for reading. Bodies are decoded when they are asked for; one is in memory at a time."""

    def __init__(self, path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> None:
        """max_bytes: the most that all files may take when they are unpacked.

        Raises PackedError when the file is none, is damaged, or is larger than that. The whole file is checked.
        """
        self.path = Path(path)
        self._stream = _opened(self.path)
        try:
            with naming(self.path):
                self.packed_bytes = _check_digest(self._stream)
                self.ledger, self.head_bytes = _read_head(self._stream, max_bytes)
                self._starts = self._body_starts()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def tensors(self) -> Iterator[tuple[Entry, Array]]:
        """Every tensor with its values, body by body."""
        by_body = sorted(self.ledger.entries, key=lambda entry: entry.body if entry.length else -1)
        at, raw = -1, memoryview(b"")
        for entry in by_body:
            if entry.length and entry.body != at:
                at, raw = entry.body, self._decoded(entry.body)
            yield entry, as_array(entry, raw[entry.offset : entry.offset + entry.length])

    def tensor(self, name: str) -> Array:
        """The first tensor of that name. Raises KeyError."""
        for entry in self.ledger.entries:
            if entry.name == name:
                raw = self._decoded(entry.body) if entry.length else memoryview(b"")
                return as_array(entry, raw[entry.offset : entry.offset + entry.length])
        raise KeyError(name)

    def lines(self) -> list[TensorLine]:
        """What each tensor takes and how it is coded. Decodes the whole file, and so checks it."""
        codings = [_described(self._decode(position).codings) for position in range(len(self.ledger.bodies))]
        seen: set[tuple[int, int]] = set()
        lines = []
        for entry in self.ledger.entries:
            is_repeated = (entry.body, entry.offset) in seen or not entry.length
            body = self.ledger.bodies[entry.body] if not is_repeated else None
            share = entry.length / body.raw_bytes * body.packed_bytes if body is not None else 0.0
            coding = codings[entry.body] if body is not None else "the same as before" if entry.length else "empty"
            lines.append(TensorLine(entry.name, entry.dtype, entry.shape, coding, round(share), entry.length))
            seen.add((entry.body, entry.offset))
        return lines

    def write(self, model: Path) -> list[Path]:
        """Unpack to the ONNX file `model`, external data beside it. Returns the files. Each appears when all are whole."""
        targets = [model if not file.name else model.parent / file.name for file in self.ledger.files]
        with ExitStack() as stack:
            temporary = [stack.enter_context(_in_writing(target)) for target in targets]
            self._fill([one.stream for one in temporary])
            for one in temporary:
                one.keep()
        return targets

    def _fill(self, streams: list[BinaryIO]) -> None:
        for position, (file, stream) in enumerate(zip(self.ledger.files, streams, strict=True)):
            stream.truncate(file.size)
            covered = [
                (entry.start, entry.start + entry.length) for entry in self.ledger.entries if entry.file == position
            ]
            at = 0
            for start, end in free_ranges(covered, file.size):
                stream.seek(start)
                stream.write(file.rest[at : at + end - start])
                at += end - start
        at, raw = -1, memoryview(b"")
        # Tensors that share one place in a file are equal: what is written grows with the files, not with their tensors.
        places = {(entry.file, entry.start, entry.length): entry for entry in self.ledger.entries if entry.length}
        for entry in sorted(places.values(), key=lambda entry: entry.body):
            if entry.body != at:
                at, raw = entry.body, self._decoded(entry.body)
            streams[entry.file].seek(entry.start)
            streams[entry.file].write(raw[entry.offset : entry.offset + entry.length])

    def _decoded(self, position: int) -> memoryview:
        return self._decode(position).raw

    def _decode(self, position: int) -> _Decoded:
        body = self.ledger.bodies[position]
        self._stream.seek(self._starts[position])
        source = Cursor(self._stream.read(body.packed_bytes), "a body")
        with naming(self.path):
            values = decode(source, (body.rows, body.columns), body.element_size)
            source.end()
            # Without a copy: bodies may be as large as the limit.
            raw = memoryview(np.ascontiguousarray(values).reshape(-1).data).cast("B").toreadonly()
            if zlib.crc32(raw) != body.checksum:
                raise damaged("a body's checksum is wrong")
        return _Decoded(raw, tuple(source.codings))

    def _body_starts(self) -> list[int]:
        starts, at = [], self.head_bytes
        for body in self.ledger.bodies:
            starts.append(at)
            at += body.packed_bytes
        if at != self.packed_bytes - DIGEST_BYTES:
            raise damaged("the bodies are not as long as the ledger says")
        return starts


@dataclass(frozen=True)
class _Decoded:
    raw: memoryview
    codings: tuple[str, ...]


def _described(codings: tuple[str, ...]) -> str:
    """The outer codings, each once; how the last bytes are stored says little."""
    told = [name for name in dict.fromkeys(codings) if name not in ("raw", "repeated", "symbols")]
    return ", ".join(told or codings[:1])


def as_array(entry: Entry, raw: memoryview) -> Array:
    """The tensor's values; of types that numpy has not, their bits. What ONNX wrote as varints is read from these."""
    element = ELEMENTS.get(entry.data_type)
    if entry.written_as == VARINTS:
        numbers = _varints(np.frombuffer(raw, np.uint8))
        if element is None or not 8 <= element.bits <= 64:
            return numbers
        kept = numbers.astype(UNSIGNED_OF[element.size]).view(element.stored_as)
        return kept.reshape(entry.shape) if len(kept) == entry.parameters else kept
    assert element is not None
    found = np.frombuffer(raw, element.stored_as)
    return found.reshape(entry.shape) if len(found) == entry.parameters else found


UNSIGNED_OF = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}


def _varints(raw: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A part at a time: what is computed for each byte is much longer than a byte."""
    parts, at = [np.empty(0, np.uint64)], 0
    while at < len(raw):
        part = raw[at : at + _CHUNK]
        ends = np.flatnonzero(part < 0x80)
        if not len(ends):
            raise damaged("a tensor's numbers are no varints")
        part = part[: ends[-1] + 1]
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        if (ends - starts).max() > 9:
            raise damaged("a tensor's numbers are no varints")
        group = np.arange(len(part)) - np.repeat(starts, ends - starts + 1)
        parts.append(np.add.reduceat((part & 0x7F).astype(np.uint64) << (7 * group).astype(np.uint64), starts))
        at += len(part)
    return np.concatenate(parts)


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise PackedError(f"cannot read {path}: {error.strerror}") from None


def _check_digest(stream: BinaryIO) -> int:
    """The file's length. Raises PackedError when it is no packed file, or not all as it was written."""
    start = stream.read(len(MAGIC) + 1)
    if start[: len(MAGIC)] != MAGIC:
        raise PackedError("not a packed model", hint="`compressctl pack` writes them; an .onnx file is read as it is")
    if start[len(MAGIC) :] != bytes([VERSION]):
        raise PackedError(f"a packed model of another version than {VERSION}", hint="a newer compressctl may read it")
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    left, digest = size - DIGEST_BYTES, hashlib.blake2b(digest_size=DIGEST_BYTES)
    while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    if left or stream.read() != digest.digest():
        raise damaged("its checksum is wrong, or its end is missing")
    return size


def _read_head(stream: BinaryIO, max_bytes: int) -> tuple[Ledger, int]:
    """The ledger, and where it ends in the file."""
    stream.seek(0)
    start = Cursor(stream.read(_START), "the file")
    start.bytes(len(MAGIC) + 1)
    raw_size, packed_size = start.varint(most=LARGEST_HEAD), start.varint(most=LARGEST_HEAD)
    stream.seek(start.position)
    if raw_size > max(max_bytes, LEAST_LEDGER):
        raise PackedError(f"its ledger alone would take {raw_size:,} bytes, and {max_bytes:,} are allowed", hint=TRUST)
    squeezed = Cursor(stream.read(packed_size), "the file").bytes(packed_size)
    return read_ledger(unpack_lzma(squeezed, raw_size), max_bytes), start.position + packed_size


def _in_writing(target: Path) -> FileInWriting:
    target.parent.mkdir(parents=True, exist_ok=True)
    return FileInWriting(target)
