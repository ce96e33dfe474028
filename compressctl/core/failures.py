"""Exceptions that are not ours, as the user reads them: what the machine refused, and everything else, which is a bug."""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from compressctl.core.errors import (
    BugError,
    CompressctlError,
    ExitCode,
    MachineError,
    StageError,
    UsageError,
    first_line,
    in_short,
    text_of,
)
from compressctl.core.secrets import for_others

_SPACE = "free some space where the run, the cache (COMPRESSCTL_CACHE) and temporary files (TMPDIR) lie, or move them"
_RIGHTS = (
    "choose a place where you may write: --output for the run, COMPRESSCTL_CACHE for the cache, TMPDIR for the rest"
)
MEMORY_HINT = "close other programs, use smaller batches, or run it on a machine with more memory"
_LIMITS = "raise the limit (`ulimit -a` shows it)"

_REFUSED = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _LIMITS,
    errno.EMFILE: _LIMITS,
    errno.ENFILE: _LIMITS,
    errno.EAGAIN: _LIMITS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENOMEM: MEMORY_HINT,
    errno.EIO: "the disk or its connection fails: look into the system's log",
    errno.EPIPE: "what reads the output is gone",
}
"""What the operating system refuses although the command is right, and what to do about it."""

_BAD_PATHS = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "something else has that name",
    errno.ENOTDIR: "a part of that path is a file",
    errno.EISDIR: "that is a folder",
    errno.ELOOP: "that link leads to itself",
}

_LIBRARIES_SAY = {
    "No space left on device": _SPACE,
    "os error 28": _SPACE,
    "Disk quota exceeded": _SPACE,
    "Read-only file system": _RIGHTS,
    "Permission denied": _RIGHTS,
    "File too large": _LIMITS,
    "out of memory": MEMORY_HINT,
    "can't allocate memory": MEMORY_HINT,
    "Failed to allocate memory": MEMORY_HINT,
    "bad_alloc": MEMORY_HINT,
    "Cannot allocate memory": MEMORY_HINT,
    "cannot allocate memory": MEMORY_HINT,
    "failed to map segment from shared object": MEMORY_HINT,
    "can't start new thread": _LIMITS,
}
"""Words of libraries in C++ and Rust (ONNX Runtime, torch, safetensors) whose errors are of no type that says it."""


def translated(error: BaseException, folder: Path | None = None) -> CompressctlError:
    """The same as one of our errors. folder: where a bug's traceback is written, the temporary folder without one."""
    if isinstance(error, CompressctlError):
        return error
    return refusal(error) or _bug(error, folder)


def refusal(error: BaseException) -> CompressctlError | None:
    """What the machine refused, or which path cannot be one; None when the error is about something else."""
    if isinstance(error, MemoryError):
        return MachineError(f"not enough memory{f': {first_line(error)}' if text_of(error) else ''}", hint=MEMORY_HINT)
    if isinstance(error, FileNotFoundError) and (gone := _gone(error)) is not None:
        return gone
    if isinstance(error, OSError) and error.errno is not None:
        place = f": {error.filename}" if error.filename is not None else ""
        words = f"{os.strerror(error.errno)}{place}"
        if error.errno in _BAD_PATHS:
            return UsageError(words, hint=_BAD_PATHS[error.errno])
        return MachineError(words, hint=_REFUSED[error.errno]) if error.errno in _REFUSED else None
    whole = text_of(error)
    said = next((words for words in _LIBRARIES_SAY if words in whole), None)
    if said:
        return MachineError(first_line(error), hint=_LIBRARIES_SAY[said])
    # A library may wrap what it met in an error of its own.
    behind = next((part for part in chain(error) if part is not error and _is_exhaustion(part)), None)
    return refusal(behind) if behind is not None else None


def _is_exhaustion(error: BaseException) -> bool:
    """Whatever was being done, there was no more of something: other refusals may be what a library tries first."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and _REFUSED.get(error.errno or 0) in _EXHAUSTED
    )


_EXHAUSTED = (_SPACE, MEMORY_HINT, _LIMITS)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, each once: author code may chain them in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is behind it, as behind the ImportError of a library that was being loaded."""
    return isinstance(error, ImportError) and any(isinstance(part, KeyboardInterrupt) for part in chain(error))


def unusable(error: Exception) -> CompressctlError | None:
    """Why a place takes or gives nothing, where a command can do without it; None when the error is about something else."""
    if isinstance(error, MachineError):
        return error
    return refusal(error) or (MachineError(in_short(error)) if isinstance(error, OSError) else None)


def failed_stage(name: str, error: BaseException, folder: Path) -> CompressctlError:
    """What stopped a stage: the machine, or else an error of the stage's code, which may be another package's.

    folder: where the traceback is written.
    """
    refused = refused_in(name, error)
    if refused is not None:
        return refused
    what = f"{name} failed: {in_short(error)}{_notes(error)}"
    return StageError(what, hint=_kept_traceback(error, folder))


def refused_in(what: str, error: BaseException) -> CompressctlError | None:
    """The same as `refusal`, with what was being done in front of it."""
    refused = refusal(error)
    if refused is not None:
        refused.message = f"{what}: {refused.message}"
    return refused


def exit_code(error: BaseException) -> ExitCode:
    """What the process ends with when this is what ends it."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    ours = error if isinstance(error, CompressctlError) else refusal(error)
    return ours.exit_code if ours else ExitCode.BUG


def _gone(error: FileNotFoundError) -> MachineError | None:
    """Folders that a process cannot do without, and that somebody removed."""
    if "temporary directory" in str(error):
        return MachineError("there is no folder for temporary files where something can be written", hint=_RIGHTS)
    try:
        Path.cwd()
    except OSError:
        return MachineError("the folder in which this was started is gone", hint="change into one that exists")
    return None


def _bug(error: BaseException, folder: Path | None) -> BugError:
    return BugError(
        f"this is a bug of compressctl or of a plugin: {in_short(error)}{_notes(error)}",
        hint=f"{_kept_traceback(error, folder)}; please report it with the command, the recipe and what "
        "`compressctl doctor` prints",
    )


def _kept_traceback(error: BaseException, folder: Path | None) -> str:
    """Where the traceback was written; the traceback itself where nothing can be written."""
    text = for_others("".join(traceback.format_exception(error)))
    reason: OSError | None = None
    for place in (folder, None) if folder is not None else (None,):
        try:
            return f"the full traceback is in {_log(text, place)}"
        except OSError as refused:
            reason = refused
    assert reason is not None
    last = "".join(traceback.format_exception(error, limit=-3, chain=False))
    return f"{last}   that traceback could not be written anywhere ({reason.strerror})"


def _log(text: str, folder: Path | None) -> Path:
    """A file of it: in a run's folder, or among temporary files."""
    if folder is not None:
        path = folder / "error.log"
        path.write_text(text, encoding="utf-8", errors="replace")
        return path
    number, name = tempfile.mkstemp(prefix="compressctl-error-", suffix=".log")
    try:
        with os.fdopen(number, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _notes(error: BaseException) -> str:
    """Where it was raised, as far as who passed it on has said so."""
    notes = dict.fromkeys(getattr(error, "__notes__", ()))
    return f" ({', '.join(notes)})" if notes else ""
