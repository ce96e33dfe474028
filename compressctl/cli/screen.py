"""rich's console, whose own escapes stand around text that is legible."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from compressctl.cli.streams import LegibleStream, below
from compressctl.core.legible import legible
from compressctl.core.secrets import without_secrets


class Screen(Console):
    """On stdout."""

    def __init__(self, **options: Any) -> None:
        drawn: Any = LegibleStream(below(sys.stdout), is_drawn=True)
        file: IO[str] = drawn
        super().__init__(file=file, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(legible(without_secrets(segment.text)), segment.style)
