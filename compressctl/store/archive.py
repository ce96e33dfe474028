"""An entry of a cache as one file: what it is for, which files it holds with their checksums, and their bytes. Nothing in it executes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compressctl.core.regular_files import open_regular

_MAGIC = b"compressctl cache entry 1\n"
_LENGTH_BYTES = 8
_LONGEST_HEADER = 1 << 20
_LONGEST_STEP = 255
_BLOCK = 1 << 20

_Size = Annotated[int, Field(strict=True, ge=0, le=1 << 50)]


class DamagedError(Exception):
    """An archive is not what it should be."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=1000)]
    size: _Size
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str
    files: Annotated[tuple[_File, ...], Field(max_length=10_000)]


def pack(folder: Path, key: str, into: BinaryIO, without: str) -> None:
    """Write all files of a folder, but for the one in it that is called `without`. Raises OSError."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / without):
        with open_regular(path) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files.append(_File(name=path.relative_to(folder).as_posix(), size=stream.tell(), sha256=digest))
    header = _Header(key=key, files=tuple(files)).model_dump_json().encode()
    into.write(_MAGIC + len(header).to_bytes(_LENGTH_BYTES) + header)
    for file in files:
        with open_regular(folder / file.name) as stream:
            while block := stream.read(_BLOCK):
                into.write(block)


def unpack(archive: Path, key: str, into: Path) -> None:
    """Write the files of an archive into an empty folder. Raises DamagedError for an archive that is not this key's, or not as it was written.

    No more is written than the archive is long, and nowhere but into the folder.
    """
    with open_regular(archive) as stream:
        header = _header(stream, os.fstat(stream.fileno()).st_size)
        if header.key != key:
            raise DamagedError("it is another entry's")
        for file in header.files:
            _check_name(file.name)
            target = into / file.name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                written = target.open("xb")
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise DamagedError(f"two files have the name {file.name!r}") from None
            with written:
                _copy(stream, file, written)


def _header(stream: BinaryIO, size: int) -> _Header:
    start = stream.read(len(_MAGIC) + _LENGTH_BYTES)
    length = int.from_bytes(start[len(_MAGIC) :])
    if not start.startswith(_MAGIC) or length > _LONGEST_HEADER:
        raise DamagedError("it is no cache entry")
    try:
        header = _Header.model_validate(json.loads(stream.read(length)))
    except (ValueError, ValidationError, RecursionError):
        raise DamagedError("what it says of itself cannot be read") from None
    if len(start) + length + sum(file.size for file in header.files) != size:
        raise DamagedError("it has another length than it says")
    return header


def _check_name(name: str) -> None:
    steps = PurePosixPath(name).parts
    try:
        longest = max((len(step.encode()) for step in steps), default=0)
    except UnicodeEncodeError:  # half a character
        raise DamagedError(f"a file of it is called {name!r}") from None
    if longest > _LONGEST_STEP:
        raise DamagedError("a file of it has a longer name than files have")
    if name != "/".join(steps) or name.startswith("/") or ".." in steps or "\\" in name or "\0" in name:
        raise DamagedError(f"a file of it is called {name!r}")


def _copy(stream: BinaryIO, file: _File, into: BinaryIO) -> None:
    digest, left = hashlib.sha256(), file.size
    while left:
        block = stream.read(min(_BLOCK, left))
        if not block:
            raise DamagedError("it ends too early")
        digest.update(block)
        into.write(block)
        left -= len(block)
    if digest.hexdigest() != file.sha256:
        raise DamagedError(f"{file.name!r} is not what was written")
