"""One exception family: what is wrong, where, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from compressctl.core.legible import legible
from compressctl.core.secrets import without_secrets


class ExitCode(IntEnum):
    """What a shell or a CI job learns from a command. Stable across versions; docs/exit-codes.md explains each."""

    DONE = 0
    BUDGET_MISSED = 1
    USAGE = 2
    MISSING_DEPENDENCY = 3
    STAGE_FAILED = 4
    MACHINE = 5
    NOTHING_TO_COMPRESS = 6
    BUG = 70
    TIME_LIMIT = 124
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.DONE: "done, and inside the budget",
    ExitCode.BUDGET_MISSED: "a budget or gate missed",
    ExitCode.USAGE: "recipe or usage",
    ExitCode.MISSING_DEPENDENCY: "something optional is missing",
    ExitCode.STAGE_FAILED: "a stage or deliverable failed",
    ExitCode.MACHINE: "the machine: disk, rights, memory",
    ExitCode.NOTHING_TO_COMPRESS: "nothing here can be compressed that way",
    ExitCode.BUG: "a bug of compressctl",
    ExitCode.TIME_LIMIT: "the time limit ended it",
    ExitCode.INTERRUPTED: "interrupted",
}
"""Each code in a few words."""


def first_line(error: BaseException) -> str:
    """What another library's error says first; its type where it says nothing."""
    return next((line.strip() for line in text_of(error).splitlines() if line.strip()), type(error).__name__)


def in_short(error: BaseException) -> str:
    """The same behind its type."""
    return f"{type(error).__name__}: {first_line(error)}" if text_of(error).strip() else type(error).__name__


def text_of(error: BaseException) -> str:
    """Another package's exception may be one that cannot say what it is."""
    try:
        return str(error)
    except (Exception, SystemExit):
        return ""


LONGEST_MESSAGE = 1800
"""Bytes of what is said at once: names and values of files stand in messages, and may be as long as files."""

_MOST_PROBLEMS = 100


def shortened(text: str, most: int = LONGEST_MESSAGE) -> str:
    """The text, without its middle where it has more bytes than that."""
    content = text.encode(errors="backslashreplace")
    if len(content) <= most:
        return text
    half = most // 2 - 20
    return f"{content[:half].decode(errors='ignore')} [...] {content[-half:].decode(errors='ignore')}"


@dataclass(frozen=True)
class Origin:
    """The place that set a value. line and column count from 1; text is that line of the source."""

    source: str
    line: int | None = None
    column: int | None = None
    text: str | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe. path is where in the recipe, as in `stages[1].rank`."""

    message: str
    path: str = ""
    hint: str | None = None
    origin: Origin | None = None

    def __str__(self) -> str:
        head = "  ".join(part for part in (str(self.origin) if self.origin else "", self._claim()) if part)
        return "\n".join([head, *self._excerpt(), *([f"   {self.hint}"] if self.hint else [])])

    def _claim(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def _excerpt(self) -> list[str]:
        if not self.origin or self.origin.text is None or self.origin.line is None:
            return []
        prefix = f"{self.origin.line:>5} | "
        lines = [prefix + self.origin.text.rstrip()]
        if self.origin.column is not None:
            lines.append(" " * (len(prefix) + self.origin.column - 1) + "^")
        return lines


class CompressctlError(Exception):
    """Base of every error that a user can mend. str(error) is the whole message that they read."""

    exit_code = ExitCode.STAGE_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return shortened(legible(without_secrets(f"{self.message}\n   {self.hint}" if self.hint else self.message)))


class UsageError(CompressctlError):
    """The command line, or an input file that it or the recipe names, is not usable."""

    exit_code = ExitCode.USAGE


class RecipeError(UsageError):
    """A recipe with one or more problems, all of them at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Problems beyond the first hundred are counted, and the message holds as many of them as can be read."""
        kept = list(problems[:_MOST_PROBLEMS])
        super().__init__(_cut([str(problem) for problem in kept], len(problems)))
        if len(problems) > len(kept):
            kept.append(Problem(_not_shown(len(problems) - len(kept))))
        self.problems = tuple(kept)


def _cut(texts: Sequence[str], count: int) -> str:
    """The first of them, as long as they are short enough together, and how many of `count` are left out."""
    left = LONGEST_MESSAGE
    shown: list[str] = []
    for text in texts:
        text = shortened(text)
        left -= len(text.encode(errors="backslashreplace")) + 1
        if left < 0 and shown:
            break
        shown.append(text)
    return "\n".join([*shown, *([_not_shown(count - len(shown))] if count > len(shown) else [])])


def _not_shown(count: int) -> str:
    return f"... and {count:,} more problem{'' if count == 1 else 's'}, which {'is' if count == 1 else 'are'} not shown"


class RenamedWarning(FutureWarning):
    """A recipe has a key or value under an old name, which still counts."""


class NoCacheWarning(UserWarning):
    """Nothing can be kept in a cache here."""


class TimeIsUpError(KeyboardInterrupt):
    """A run's time limit is over, which ends it as Ctrl-C does: nothing that mends failures takes it for one."""


class MissingDependencyError(CompressctlError):
    """Something optional is not installed. install is the exact command that mends it."""

    exit_code = ExitCode.MISSING_DEPENDENCY

    def __init__(self, needed_for: str, package: str, install: str) -> None:
        super().__init__(f"{needed_for} needs {package}, which is not installed", hint=f"run: {install}")
        self.package = package
        self.install = install


class MissingDeviceError(CompressctlError):
    """The device that a recipe names cannot be used here."""

    exit_code = ExitCode.MISSING_DEPENDENCY


class MachineError(CompressctlError):
    """The machine does not let a command do its work: no space, no rights, not enough memory."""

    exit_code = ExitCode.MACHINE


class BugError(CompressctlError):
    """A mistake of compressctl, not of its user. The message says where the traceback lies."""

    exit_code = ExitCode.BUG


class StageError(CompressctlError):
    """A stage could not do its work."""


class CrashError(StageError):
    """A process in which native code opened or ran a file ended, by a signal or without an answer."""


class NothingToCompressError(StageError):
    """The model has nothing that a technique works on. The message says what it looked for, or why it may touch nothing."""

    exit_code = ExitCode.NOTHING_TO_COMPRESS


class GateError(StageError):
    """A stage broke its gate and nothing mended it."""

    exit_code = ExitCode.BUDGET_MISSED
