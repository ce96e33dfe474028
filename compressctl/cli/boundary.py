"""The last line before the shell: whatever a command raises ends as one message and an exit code, never as a traceback."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from compressctl.core.errors import CompressctlError, ExitCode, RenamedWarning

_CLICK_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""The parser's own errors, which know their message and exit with 2. typer exports no name for their base."""


@contextmanager
def boundary() -> Iterator[None]:
    """Turn what is raised inside into a message on stderr and typer.Exit. What was printed reaches the output inside, too."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except (typer.Exit, typer.Abort, _CLICK_ERROR):
        raise
    except CompressctlError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # `| head` has read enough: as other programs do, leave without a word.
        _drop_output()
        raise typer.Exit(int(ExitCode.MACHINE)) from None
    except Exception as error:
        from compressctl.core.failures import translated

        ours = translated(error)
        if isinstance(error, OSError):
            _drop_output()
        fail(f"error: {ours}", ours.exit_code)


def fail(message: str, code: ExitCode) -> None:
    """Raises typer.Exit."""
    with suppress(OSError):
        print(message, file=sys.stderr)
    raise typer.Exit(int(code))


def any_text_can_be_printed() -> None:
    """Outputs that are closed swallow what is printed, and a character that an encoding does not have is escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def old_names_are_one_line() -> None:
    """A warning of an old name in a recipe is printed as other messages are, without the place in our code."""
    usual = warnings.formatwarning

    def worded(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, RenamedWarning):
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = worded


def _drop_output() -> None:
    """Python flushes stdout once more at its end, and would end with 120 where that fails."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
