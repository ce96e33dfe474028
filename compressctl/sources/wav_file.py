"""Sound out of WAV files: PCM of 8 to 32 bits and floats."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import read_regular

_LARGEST_FILE = 1 << 30
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True)
class Sound:
    """samples: (count, channels) float32, from -1 to 1. rate: of samples a second."""

    samples: np.ndarray
    rate: int


def read_wav(path: Path) -> Sound:
    """Raises UsageError when it is not one, is not all there, or is compressed."""
    try:
        content = read_regular(path, _LARGEST_FILE)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise UsageError(
            f"{path} is not a WAV file", hint="convert it, as in `ffmpeg -i in.flac -c:a pcm_s16le out.wav`"
        )
    form: bytes | None = None
    for name, body, size in _chunks(content):
        if name == b"fmt ":
            form = body
        elif name == b"data":
            if form is None or len(form) < 16:
                raise UsageError(f"{path} does not say how its sound is written (its fmt chunk is missing or short)")
            # Recorders that write into a pipe claim the most that there can be.
            if len(body) < size and size < 0x7FFF_FF00:
                raise UsageError(f"{path} ends early: {len(body):,} bytes of sound are there, it says {size:,}")
            return _sound(path, form, body)
    raise UsageError(f"{path} holds no sound (it has no data chunk)")


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Name, body as far as it is there, and the size that it should have."""
    at = 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        yield name, content[at + 8 : at + 8 + size], size
        at += 8 + size + size % 2


def _sound(path: Path, form: bytes, body: bytes) -> Sound:
    kind, channels, rate, _, block, bits = struct.unpack("<HHIIHH", form[:16])
    if kind == _EXTENSIBLE and len(form) >= 26:
        kind = int.from_bytes(form[24:26], "little")
    if kind not in (_PCM, _FLOAT) or bits not in ((8, 16, 24, 32) if kind == _PCM else (32, 64)):
        raise UsageError(
            f"{path} holds sound of format {kind} in {bits} bits", hint="PCM of 8 to 32 bits and floats are read"
        )
    if not channels or not rate or block != channels * bits // 8:
        raise UsageError(f"{path} says {channels} channels of {bits} bits in {block} bytes, at {rate} samples a second")
    body = body[: len(body) // block * block]
    values = np.frombuffer(body, f"<f{bits // 8}") if kind == _FLOAT else _integers(body, bits)
    with np.errstate(over="ignore"):
        samples = values.astype(np.float32).reshape(-1, channels)
    if not np.isfinite(samples).all():
        raise UsageError(f"{path} holds sound that is no numbers")
    return Sound(samples, rate)


def _integers(body: bytes, bits: int) -> np.ndarray:
    """From -1 to 1."""
    if bits == 8:
        return (np.frombuffer(body, np.uint8).astype(np.float32) - 128) / 128
    if bits == 24:
        parts = np.frombuffer(body, np.uint8).reshape(-1, 3).astype(np.int32)
        values = (parts[:, 0] << 8 | parts[:, 1] << 16 | parts[:, 2] << 24) >> 8
        return values.astype(np.float64) / (1 << 23)
    return np.frombuffer(body, f"<i{bits // 8}").astype(np.float64) / (1 << (bits - 1))
