"""Where a model keeps numbers outside itself: in regular files inside its own folder, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import NotRegularError, check_regular


@dataclass(frozen=True)
class ExternalPlace:
    """The bytes of one tensor. location: the file as the model calls it."""

    location: str
    file: Path
    offset: int
    length: int


_AGAIN = "get all files of the model again"


def external_place(model: Path, tensor: str, said: Mapping[str, str], size: int) -> ExternalPlace:
    """Where a tensor's numbers are. said: the entries of its external data. size: the bytes that its type and shape take.

    Raises UsageError where no regular file in the model's folder holds as many bytes there.
    """
    location = said.get("location", "")
    file = _external_file(model, location)
    offset, length = _whole(said.get("offset") or "0"), _whole(said.get("length") or str(size))
    if offset is None or length != size or offset + size > check_regular(file).st_size:
        raise UsageError(
            f"{model}: {tensor} takes {size:,} bytes, and {location} does not hold them where the model says",
            hint=_AGAIN,
        )
    return ExternalPlace(location, file, offset, size)


def _external_file(model: Path, location: str) -> Path:
    """The file that a model's external data says it is in. Nothing is opened.

    Raises UsageError for a location that is no relative path downwards, that leads out of the model's folder by links, or to
    no regular file.
    """
    check_location(model, location)
    place = _said(model, location)
    file = model.parent / location
    try:
        folder, real = (os.path.realpath(path, strict=True) for path in (model.parent, file))
        if os.path.commonpath([folder, real]) != folder:
            raise UsageError(
                f"{place}, which is a link to a file outside the model's folder",
                hint="such a link is never followed: put a copy of the file in its place",
            )
        check_regular(file)
    except NotRegularError as error:
        raise UsageError(f"{place}: {error.message}", hint=_AGAIN) from None
    except FileNotFoundError:
        raise UsageError(f"{place}: {file} does not exist", hint=_AGAIN) from None
    except OSError as error:
        raise UsageError(f"{place}: {file} cannot be read: {error.strerror}", hint=_AGAIN) from None
    return file


def check_location(model: Path, location: str) -> None:
    """Raises UsageError for what is no relative path downwards. Nothing is looked at."""
    steps = PurePosixPath(location).parts
    if not steps or "\0" in location or "\\" in location:
        raise UsageError(f"{_said(model, location)}, which is no path of a file", hint=_AGAIN)
    if location.startswith("/") or ".." in steps:
        raise UsageError(
            f"{_said(model, location)}, which is outside the model's folder", hint="such a path is never followed"
        )


def _said(model: Path, location: str) -> str:
    return f"{model} keeps weights in a second file, {location!r}"


def _whole(text: str) -> int | None:
    """Digits alone: Python reads signs, underscores, spaces and other scripts' digits too."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
