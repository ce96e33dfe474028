"""Reading and writing the small numbers of a packed file: varints, bytes and text, each checked against what is there."""

from __future__ import annotations

from compressctl.packed.errors import damaged

_MOST_BYTES = 9
"""A varint of nine bytes holds 63 bits, more than any size."""


def varint(value: int) -> bytes:
    """A number from 0 on in groups of 7 bits, lowest first; the high bit of a byte says that another follows."""
    if value < 0:
        raise ValueError(f"{value} is negative")
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def text(value: str) -> bytes:
    encoded = value.encode()
    return varint(len(encoded)) + encoded


class Cursor:
    """A place in bytes that moves on as they are read. Whatever is not there raises PackedError."""

    def __init__(self, data: bytes | memoryview, where: str) -> None:
        self._data = memoryview(data)
        self._where = where
        self.position = 0
        self.codings: list[str] = []
        """Names of the codings that were read from here, in order."""

    @property
    def left(self) -> int:
        return len(self._data) - self.position

    def bytes(self, count: int) -> memoryview:
        if count > self.left:
            raise damaged(f"{self._where} ends too early")
        self.position += count
        return self._data[self.position - count : self.position]

    def byte(self) -> int:
        return self.bytes(1)[0]

    def varint(self, most: int | None = None) -> int:
        """The next number; most: the largest that makes sense here."""
        value = 0
        for position in range(_MOST_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                break
        else:
            raise damaged(f"{self._where} holds a number that is too long")
        if most is not None and value > most:
            raise damaged(f"{self._where} holds {value} where at most {most} is possible")
        return value

    def text(self) -> str:
        try:
            return str(self.bytes(self.varint()), "utf-8")
        except UnicodeDecodeError:
            raise damaged(f"{self._where} holds a name that is not UTF-8") from None

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise damaged(f"{self._where} is longer than it says")
