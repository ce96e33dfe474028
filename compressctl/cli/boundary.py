"""The last line before the shell: whatever a command raises ends as one message and an exit code, never as a traceback."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import typer

from compressctl.cli.streams import LegibleStream
from compressctl.core.errors import CompressctlError, ExitCode, NoCacheWarning, RenamedWarning
from compressctl.core.process_state import open_standard_descriptors
from compressctl.core.secrets import for_others, without_secrets

_CLICK_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""The parser's own errors, which know their message and exit with 2. typer exports no name for their base."""


@contextmanager
def boundary() -> Iterator[None]:
    """Turn what is raised inside into a message on stderr and typer.Exit. What was printed reaches the output inside, too."""
    try:
        try:
            yield
        finally:
            if not sys.stdout.closed:
                sys.stdout.flush()
    except _CLICK_ERROR as error:
        error.message = in_brief(error.message)
        with _unheard():
            error.show()
        raise typer.Exit(error.exit_code) from None
    except (typer.Exit, typer.Abort):
        raise
    except CompressctlError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", ExitCode.INTERRUPTED)
    except BaseException as error:
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            # `| head` has read enough: as other programs do, leave without a word. rich leaves with 1 there.
            _drop(sys.stdout)
            raise typer.Exit(int(ExitCode.MACHINE)) from None
        from compressctl.core.failures import is_interrupt, translated

        if is_interrupt(error):
            fail("interrupted", ExitCode.INTERRUPTED)
        ours = translated(error)
        if isinstance(error, OSError):
            _drop(sys.stdout)
        fail(f"error: {ours}", ours.exit_code)


def fail(message: str, code: ExitCode) -> None:
    """Raises typer.Exit."""
    tell(message)
    raise typer.Exit(int(code))


def tell(message: str) -> None:
    """Print a message on stderr, if anybody is there to read it."""
    with _unheard():
        print(in_brief(message), file=sys.stderr)


def in_brief(message: str) -> str:
    """The message in less than 2 kB: what was given may be of any length, and is named in it."""
    lines = [
        line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
        for line in message.splitlines()
    ]
    size = 0
    for number, line in enumerate(lines):
        size += len(line.encode(errors="replace")) + 1
        if size > _LONGEST_MESSAGE:
            return "\n".join([*lines[:number], f"   ... and {len(lines) - number} more lines"])
    return "\n".join(lines)


_LONGEST_LINE, _LONGEST_MESSAGE = 500, 1900


def any_text_can_be_printed() -> None:
    """Outputs that are closed swallow what is printed, a character that an encoding does not have is escaped, and so is what no
    terminal or CI job should be told."""
    open_standard_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        told = for_others if name == "stderr" else without_secrets
        setattr(sys, name, LegibleStream(getattr(sys, name), told=told))


def warnings_are_one_line() -> None:
    """A warning of ours is printed as other messages are, without the place in our code."""
    usual = warnings.formatwarning

    def worded(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, (RenamedWarning, NoCacheWarning)):
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = worded


@contextmanager
def _unheard() -> Iterator[None]:
    """What cannot be said on stderr changes no exit code."""
    try:
        yield
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """Python flushes its outputs once more at its end, and would end with 120 where that fails."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
