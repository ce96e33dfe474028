"""What others wrote, as Markdown shows it: text that gives no orders, tables and folded parts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compressctl.core.legible import legible

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>#|~&$"})


_MENTION = re.compile(r"(?<![\w])@(?=\w)")
"""Where GitHub and GitLab notify somebody; a backslash does not keep them from it."""


def text(value: str) -> str:
    """User strings as they are, whatever Markdown or HTML would make of them, on one line and not endless."""
    flat = " ".join(legible(value).split())
    return _MENTION.sub("＠", flat if len(flat) <= 300 else flat[:299] + "…").translate(_SPECIAL)


def block(value: str) -> list[str]:
    """Lines as they are."""
    return ["```text", _MENTION.sub("＠", legible(value)).replace("```", "'''"), "```"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(text(cell) for cell in row)} |" for row in rows),
    ]


def folded(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"<details><summary>{text(title)}</summary>", "", *lines, "", "</details>"]
