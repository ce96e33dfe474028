"""Mutations of bytes: what an attacker, a broken disk and a wrong editor do to a file."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

NUMBERS = (
    *(
        b"0",
        b"-1",
        b"1",
        b"127",
        b"255",
        b"65535",
        b"2147483648",
        b"4294967296",
        b"9223372036854775807",
        b"18446744073709551616",
    ),
    *(
        b"1e300",
        b"1e999",
        b"-1e999",
        b"NaN",
        b"Infinity",
        b"1e-400",
        b"0x7fffffff",
        b"1_000",
        b"9" * 70,
        b"." * 3,
        b"2:4",
    ),
)
TOKENS = (
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"[[[[",
        b"{{{{",
        b"]",
        b"}",
        b"${x}",
        b"${env:HOME}",
        b"&a",
        b"*a",
        b"!!python/name:os.system",
    ),
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\x1b[31m",
        b"\r\n",
        b"\n---\n",
        b"\xe2\x80\xae",
        b"../../etc/passwd",
        b"/dev/zero",
        b"\t",
        b"'",
    ),
    *(
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\xff\xff\xff\xff\x0f",
        b"\xff" * 8,
        b"PK\x05\x06",
        b"\x93NUMPY",
        b"|O",
        b"<f8",
        b"(1,)",
    ),
)

_DIGITS = re.compile(rb"-?\d+(\.\d+)?")


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One to six mutations; others: what parts may come from."""
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        data = rng.choice(_MUTATIONS)(data, others, rng)
    return data[:_MOST_BYTES]


_MOST_BYTES = 1 << 16


def _flip(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(changed)


def _cut(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 4, 8, 32, 128)) :]


def _repeat(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.choice((1, 2, 4, 8, 32, 128))]
    return data[:start] + part * rng.choice((2, 2, 3, 50)) + data[start + len(part) :]


def _insert(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(TOKENS + NUMBERS) + data[start:]


def _overwrite(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    token = rng.choice(TOKENS + NUMBERS)
    start = rng.randrange(len(data) + 1)
    return data[:start] + token + data[start + len(token) :]


def _number(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Another number in the place of one that is written in digits."""
    place = _DIGITS.search(data, rng.randrange(len(data) + 1)) or _DIGITS.search(data)
    if place is None:
        return _set(data, others, rng)
    return data[: place.start()] + rng.choice(NUMBERS) + data[place.end() :]


def _splice(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    start, first = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    return data[:start] + other[first : first + rng.choice((4, 16, 64, 1024))] + data[start:]


def _swap(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Two lines, or two halves where there are none."""
    lines = data.split(b"\n")
    if len(lines) < 2:
        middle = len(data) // 2
        return data[middle:] + data[:middle]
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


_MUTATIONS: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    *(_flip, _set, _cut, _remove, _repeat, _insert, _overwrite, _number, _number, _splice, _swap),
)
