"""Names that users, files and exporters chose, made fit to be read: nothing invisible, nothing that moves other text."""

from __future__ import annotations

import unicodedata

_LONGEST = 60
_KEPT = "\n\t"
_DIRECTIONS = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
"""Unicode's bidirectional controls: U+202E shows "evil" as "live", and everything behind it too. Source: Unicode UAX 9."""


def legible(text: str) -> str:
    """Terminal escapes, other control characters and changes of direction as `\\u202e`; letters of any script stay."""
    return "".join(f"\\u{ord(char):04x}" if _is_hidden(char) else char for char in text)


def shortened(name: str, longest: int = _LONGEST) -> str:
    """For sentences and pictures, where a name of a thousand letters would push out what is said of it."""
    shown = legible(name)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _is_hidden(char: str) -> bool:
    return char not in _KEPT and (ord(char) in _DIRECTIONS or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"))
