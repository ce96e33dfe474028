"""The ledger of a packed file: which files it holds, which tensors, and where each tensor's numbers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from compressctl.packed.cursor import Cursor, text, varint
from compressctl.packed.elements import ELEMENTS
from compressctl.packed.errors import PackedError, damaged
from compressctl.packed.onnx_bytes import EXTERNAL, VARINTS

MAGIC = b"CCTL"
VERSION = 1
DIGEST_BYTES = 16
LARGEST_HEAD = 1 << 28
"""Bytes of the ledger with the graph: 256 MiB, some hundred times what large models need."""

TRUST = "allow more if you trust the file"
_MOST_DIMENSIONS = 32
_MOST_ENTRIES = 1 << 18
"""Files, bodies and tensors: more than the largest mixtures of experts have."""

_ENTRY_BYTES, _DIMENSION_BYTES = 1024, 40
"""Memory that reading takes for each."""
LEAST_LEDGER = 1 << 24
"""A ledger may take this much memory whatever the limit is, so that a limit as large as the files is enough."""

_MOST_OVERLAP = 4

BODY_BYTES, _POOLS = 256, 64
"""Tensors up to so many bytes share a body with others of their type, of which there are fewer than so many."""


@dataclass(frozen=True)
class StoredFile:
    """One file that unpacking writes. name: "" for the model itself, else a path beside it. rest: its bytes outside tensors,
    in order."""

    name: str
    size: int
    rest: bytes


@dataclass(frozen=True)
class Body:
    """Numbers that were coded together: one large tensor, or small ones of one type. element_size: bytes of a number.

    packed_bytes: as coded. checksum: CRC-32 of the numbers."""

    packed_bytes: int
    checksum: int
    element_size: int
    rows: int
    columns: int

    @property
    def raw_bytes(self) -> int:
        return self.element_size * self.rows * self.columns


@dataclass(frozen=True)
class Entry:
    """One tensor: its `length` bytes stand in file `file` from `start` on, and in body `body` from `offset` on.

    data_type: ONNX's number of the element type. written_as: how ONNX holds the numbers (onnx_bytes)."""

    name: str
    data_type: int
    shape: tuple[int, ...]
    written_as: int
    file: int
    start: int
    length: int
    body: int
    offset: int

    @property
    def dtype(self) -> str:
        return ELEMENTS[self.data_type].name if self.data_type in ELEMENTS else f"type {self.data_type}"

    @property
    def parameters(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Ledger:
    files: tuple[StoredFile, ...]
    bodies: tuple[Body, ...]
    entries: tuple[Entry, ...]

    @property
    def raw_bytes(self) -> int:
        """Of all files that unpacking writes."""
        return sum(file.size for file in self.files)


def write_ledger(ledger: Ledger) -> bytes:
    """Like values stand together, because that packs best."""
    parts = [varint(len(ledger.files))]
    parts += [text(file.name) + varint(file.size) + varint(len(file.rest)) for file in ledger.files]
    parts += [varint(len(ledger.bodies)), varint(len(ledger.entries))]
    parts += [file.rest for file in ledger.files]
    parts += [text(entry.name) for entry in ledger.entries]
    parts += [varint(entry.data_type) for entry in ledger.entries]
    parts += [varint(len(entry.shape)) + b"".join(map(varint, entry.shape)) for entry in ledger.entries]
    parts += [varint(entry.written_as) for entry in ledger.entries]
    parts += [varint(entry.file) for entry in ledger.entries]
    parts += [varint(entry.body) for entry in ledger.entries]
    parts += [varint(entry.length) for entry in ledger.entries]
    for value, expected in zip(ledger.entries, _expected(ledger.entries), strict=True):
        parts.append(_signed(value.start - expected[0]) + _signed(value.offset - expected[1]))
    parts += [varint(body.packed_bytes) for body in ledger.bodies]
    parts += [varint(body.element_size) + varint(body.rows) + varint(body.columns) for body in ledger.bodies]
    parts += [body.checksum.to_bytes(4, "little") for body in ledger.bodies]
    return b"".join(parts)


def read_ledger(data: bytes, max_bytes: int) -> Ledger:
    """Raises PackedError where anything does not fit together, or when the files would take more than max_bytes."""
    source = Cursor(data, "the ledger")
    memory = _Memory(max(max_bytes, LEAST_LEDGER), len(data))
    heads = [(source.text(), source.varint(), source.varint()) for _ in range(source.varint(most=_MOST_ENTRIES))]
    _check_files(heads, max_bytes)
    bodies, entries = source.varint(most=_MOST_ENTRIES), source.varint(most=_MOST_ENTRIES)
    memory.take((len(heads) + bodies + entries) * _ENTRY_BYTES)
    files = tuple(StoredFile(name, size, bytes(source.bytes(rest))) for name, size, rest in heads)
    columns: list[list[tuple[int, ...]]] = []

    def column(read: Callable[[], tuple[int, ...]]) -> None:
        columns.append([read() for _ in range(entries)])

    names = [source.text() for _ in range(entries)]
    column(lambda: (source.varint(),))
    column(lambda: tuple(source.varint() for _ in range(memory.dimensions(source))))
    column(lambda: (source.varint(most=EXTERNAL),))
    column(lambda: (source.varint(most=len(files) - 1),))
    column(lambda: (source.varint(most=max(bodies - 1, 0)),))
    column(lambda: (source.varint(),))
    column(lambda: (_read_signed(source), _read_signed(source)))
    found = _entries(names, columns)
    packed = [source.varint() for _ in range(bodies)]
    shapes = [(source.varint(most=8), source.varint(), source.varint()) for _ in range(bodies)]
    sums = [int.from_bytes(source.bytes(4), "little") for _ in range(bodies)]
    source.end()
    ledger = Ledger(files, tuple(map(_body, packed, sums, shapes)), found)
    _check(ledger, max_bytes)
    return ledger


class _Memory:
    """What reading a ledger may still take."""

    def __init__(self, most: int, ledger_bytes: int) -> None:
        self.most, self.left = most, most
        self.take(ledger_bytes)

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise PackedError(
                f"its ledger would take more than the {self.most:,} bytes of memory that are allowed", hint=TRUST
            )

    def dimensions(self, source: Cursor) -> int:
        """How many a tensor has, and the memory for them."""
        count = source.varint(most=_MOST_DIMENSIONS)
        self.take(count * _DIMENSION_BYTES)
        return count


def _body(packed: int, checksum: int, shape: tuple[int, int, int]) -> Body:
    if shape[0] not in (1, 2, 4, 8) or not shape[1] or not shape[2]:
        raise damaged("the ledger holds a body of an impossible shape")
    return Body(packed, checksum, *shape)


def _expected(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Where each tensor would begin, in its file and in its body, if it came right behind the one before it there."""
    in_file: dict[int, int] = {}
    in_body: dict[int, int] = {}
    found = []
    for entry in entries:
        found.append((in_file.get(entry.file, 0), in_body.get(entry.body, 0)))
        in_file[entry.file] = entry.start + entry.length
        in_body[entry.body] = entry.offset + entry.length
    return found


def _entries(names: list[str], columns: list[list[tuple[int, ...]]]) -> tuple[Entry, ...]:
    in_file: dict[int, int] = {}
    in_body: dict[int, int] = {}
    found = []
    for name, (kind,), shape, (written,), (file,), (body,), (length,), (start, offset) in zip(
        names, *columns, strict=True
    ):
        start, offset = start + in_file.get(file, 0), offset + in_body.get(body, 0)
        if start < 0 or offset < 0:
            raise damaged("the ledger holds a place before the beginning")
        found.append(Entry(name, kind, shape, written, file, start, length, body, offset))
        in_file[file], in_body[body] = start + length, offset + length
    return tuple(found)


def _check_files(heads: list[tuple[str, int, int]], max_bytes: int) -> None:
    names = [name for name, _, _ in heads]
    if not names or names[0] or len(set(names)) != len(names):
        raise damaged("the ledger names its files wrongly")
    for name in names[1:]:
        check_name(name)
    total = sum(size for _, size, _ in heads)
    if total > max_bytes:
        raise PackedError(
            f"unpacked it would take {total:,} bytes, and {max_bytes:,} are allowed",
            hint=TRUST,
        )
    if any(rest > size for _, size, rest in heads):
        raise damaged("the ledger holds more of a file than the file is long")


def check_name(name: str) -> None:
    """A file beside the model: a relative path with forward slashes, that leads nowhere else. Raises PackedError."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(mark in name for mark in "\\:\0"):
        raise PackedError(
            f"external data in {name!r}: not a file beside the model", hint="such a path is never followed"
        )


def _check(ledger: Ledger, max_bytes: int) -> None:
    numbers = sum(body.raw_bytes for body in ledger.bodies)
    if numbers > min(max_bytes, ledger.raw_bytes):
        raise damaged("the ledger holds bodies larger than the files")
    if len(ledger.bodies) > _POOLS + numbers // BODY_BYTES:
        raise damaged("the ledger holds more bodies than its numbers need")
    covered: dict[int, list[tuple[int, int]]] = {}
    for entry in ledger.entries:
        if entry.length:
            body = ledger.bodies[entry.body] if ledger.bodies else None
            if body is None or entry.offset + entry.length > body.raw_bytes:
                raise damaged(f"tensor {entry.name} is not inside its body")
            covered.setdefault(entry.file, []).append((entry.start, entry.start + entry.length))
        element = ELEMENTS.get(entry.data_type)
        if element is None and entry.written_as != VARINTS:
            raise damaged(f"tensor {entry.name} is of no type that is packed")
        if element is not None and entry.written_as != VARINTS and element.bytes_of(entry.parameters) != entry.length:
            raise damaged(f"tensor {entry.name} has not the size that its shape says")
    if sum(entry.length for entry in ledger.entries if entry.written_as == VARINTS) > ledger.raw_bytes:
        raise damaged("numbers of several tensors are the same bytes")
    for position, file in enumerate(ledger.files):
        gaps = free_ranges(covered.get(position, []), file.size)
        if sum(end - start for start, end in gaps) != len(file.rest):
            raise damaged("the tensors and the rest of a file are not the whole file")


def free_ranges(covered: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """What is left of 0 to size. Raises PackedError for a range outside, and for ranges that overlap more than tensors may.

    Tied tensors name one range of external data; other overlaps are of no use, and each costs its length to unpack."""
    ranges = sorted(set(covered))
    if sum(end - start for start, end in ranges) > _MOST_OVERLAP * size:
        raise damaged("tensors overlap each other")
    found, at = [], 0
    for start, end in ranges:
        if end > size:
            raise damaged("a tensor reaches beyond its file")
        if start > at:
            found.append((at, start))
        at = max(at, end)
    if at < size:
        found.append((at, size))
    return found


def _signed(value: int) -> bytes:
    return varint(2 * value if value >= 0 else -2 * value - 1)


def _read_signed(source: Cursor) -> int:
    value = source.varint()
    return -(value + 1) // 2 if value % 2 else value // 2
