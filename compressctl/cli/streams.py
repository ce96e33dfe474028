"""stdout and stderr as the command line writes to them: what is printed is legible, and gives no orders to a terminal or a CI job."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TextIO

from compressctl.core.legible import legible, without_commands
from compressctl.core.secrets import without_secrets


class LegibleStream:
    """Writes to another stream.

    is_drawn: text comes with escapes of our own, for colors and bars, and is legible beneath them. told: what of a text is told.
    """

    def __init__(self, stream: TextIO, *, is_drawn: bool = False, told: Callable[[str], str] = without_secrets) -> None:
        self.stream = stream
        self._is_drawn = is_drawn
        self._told = told
        self._at_line_start = True

    def write(self, text: str) -> int:
        length, text = len(text), self._told(text)
        shown = without_commands(text if self._is_drawn else legible(text), at_line_start=self._at_line_start)
        if not self.stream.closed:  # by author code
            self.stream.write(shown)
        self._at_line_start = shown.endswith("\n") or (self._at_line_start and not shown.strip())
        return length

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if not self.stream.closed:
            self.stream.flush()

    def close(self) -> None:
        """Author code may think that it is its own: what comes after it is still told."""
        self.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def below(stream: Any) -> TextIO:
    """The stream as it was, for output that keeps to its own rules."""
    found: TextIO = stream.stream if isinstance(stream, LegibleStream) else stream
    return found
