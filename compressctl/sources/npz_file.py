"""The arrays of an .npz file, each held against what the archive holds before memory is taken for it."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import psutil
from numpy.lib import format as npy

from compressctl.core.errors import CompressctlError, MachineError, UsageError, first_line
from compressctl.core.failures import MEMORY_HINT
from compressctl.core.regular_files import open_regular

_HEADERS: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""Version 3 is for names of fields, and those are no arrays of numbers."""

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")

_MAPPED_BYTES = 1 << 20
"""Arrays from here on that are stored as they are stay in the file and are mapped: samples that nobody reads take no memory."""


class NpzFile:
    """An open file. No Python objects are read from it."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError for what is no .npz file."""
        self.path = path
        try:
            self._stream = open_regular(path)
        except OSError as error:
            raise UsageError(f"{path} is not an .npz file: {error}") from error
        try:
            self._archive = zipfile.ZipFile(self._stream)
        except Exception as error:
            if _begins_with(self._stream, npy.MAGIC_PREFIX):
                raise UsageError(
                    f"{path} is a single array, not an .npz file", hint="write it with numpy.savez"
                ) from None
            raise UsageError(f"{path} is not an .npz file: {first_line(error)}") from error
        self.names = [name.removesuffix(".npy") for name in self._archive.namelist()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def get(self, name: str) -> np.ndarray:
        """Raises UsageError when there is no such array or it cannot be read, MachineError when it is too large for this machine."""
        if name not in self.names:
            raise UsageError(f"{self.path} has no array {name!r}", hint=f"it has {', '.join(self.names)}")
        info = self._archive.infolist()[self.names.index(name)]
        try:
            return self._read(info, name)
        except (CompressctlError, MemoryError):
            raise
        except Exception as error:
            raise UsageError(f"{self.path}: array {name!r} cannot be read: {first_line(error)}") from error

    def _read(self, info: zipfile.ZipInfo, name: str) -> np.ndarray:
        place = f"{self.path}: array {name!r}"
        with self._archive.open(info) as stream:
            shape, is_fortran, dtype = _header(stream)
            if dtype.hasobject:
                raise UsageError(f"{place} cannot be read: it holds Python objects, which are never read")
            size = math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or size != info.file_size - stream.tell():
                raise UsageError(
                    f"{place} is not all there: it says that it takes {size:,} bytes, and {info.file_size - stream.tell():,} are stored"
                )
            if info.compress_type == zipfile.ZIP_STORED and size >= _MAPPED_BYTES:
                start = stream.tell()
                while stream.read(_MAPPED_BYTES):  # to its end, where the archive's checksum is compared
                    pass
                order: Literal["F", "C"] = "F" if is_fortran else "C"
                return np.memmap(self._stream, dtype, "r", self._begin(info) + start, shape, order)
            if size > psutil.virtual_memory().available:
                raise MachineError(
                    f"{place} takes {size:,} bytes of memory, more than this machine has left", hint=MEMORY_HINT
                )
            content = bytearray(size)
            if _filled(stream, content) != size:
                raise UsageError(f"{place} is not all there: the file ends early")
        return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")

    def _begin(self, info: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin. Source: PKWARE, APPNOTE.TXT 4.3.7, local file header."""
        self._stream.seek(info.header_offset)
        header = self._stream.read(_LOCAL_HEADER.size)
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)[-2:]
        return int(info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)


def _header(stream: Any) -> Any:
    """Shape, whether it is in Fortran's order, dtype. Raises what numpy raises, but no MemoryError: it has at most 10,000 characters."""
    try:
        return _HEADERS[npy.read_magic(stream)](stream)
    except MemoryError:  # Python's parser says so of brackets in brackets
        raise ValueError("brackets in brackets") from None


def _filled(stream: Any, content: bytearray) -> int:
    """Bytes that were read; the archive's checksum is compared at the end."""
    view, at = memoryview(content), 0
    while count := stream.readinto(view[at:]):
        at += count
    stream.read(1)
    return at


def _begins_with(stream: BinaryIO, start: bytes) -> bool:
    stream.seek(0)
    return stream.read(len(start)) == start
