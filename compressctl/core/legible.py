"""Names that users, files and exporters chose, made fit to be read: nothing invisible, nothing that moves other text or gives orders.

Applied where text leaves: at the console, in each format of a report, in errors.
"""

from __future__ import annotations

import re
import unicodedata

_LONGEST = 60
_KEPT = "\n\t"
_SHOWN_FORMATS = {*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD}
"""Of Unicode's category Cf, the signs that are drawn. Source: Unicode 15, property Prepended_Concatenation_Mark."""
_BLANK = {
    0x034F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x180B,
    0x180C,
    0x180D,
    0x180F,
    0x2800,
    0x3164,
    0xFFA0,
    *range(0xFE00, 0xFE10),
}
_BLANK_PLANE = range(0xE0000, 0xE1000)
"""Letters, marks and selectors that nothing is drawn for. Source: Unicode 15, property Default_Ignorable_Code_Point, and U+2800."""
_JOINERS = {0x200C, 0x200D, 0xFE0F}
"""Zero-width, and part of how some scripts and pictures are written: kept behind such a letter or picture."""

_UNUSUAL = re.compile(r"[^ -~\n\t]")
"""All others are legible, and pages of many megabytes are made of them."""

_WORKFLOW_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)
_AGENT_COMMAND = re.compile(r"##(?=\w*\[)")


def legible(text: str) -> str:
    """Terminal escapes, other control characters, changes of direction and what has no width as `\\u202e`; letters of any script stay.

    Written so, they are JSON's escapes too: of a JSON text the values stay the same.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return _UNUSUAL.sub(
        lambda found: _escape(found[0]) if _is_hidden(found[0], text[found.start() - 1 : found.start()]) else found[0],
        text,
    )


def on_one_line(text: str) -> str:
    """The same for a place that has one line, as the cell of a table."""
    return legible(text).replace("\n", "\\n").replace("\t", "\\t")


def shortened(name: str, longest: int = _LONGEST) -> str:
    """For sentences and pictures, where a name of a thousand letters would push out what is said of it."""
    shown = on_one_line(name)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def without_commands(text: str, *, at_line_start: bool = True) -> str:
    """Lines that a CI system would obey, broken: `::error::` of GitHub at the start of a line, `##vso[` of Azure anywhere."""
    text = _AGENT_COMMAND.sub(r"#\\u0023", text)
    if at_line_start:
        return _WORKFLOW_COMMAND.sub(r"\1\\u003a", text)
    first, newline, rest = text.partition("\n")
    return first + newline + without_commands(rest) if newline else first


def _is_hidden(char: str, before: str) -> bool:
    if char in _KEPT:
        return False
    number = ord(char)
    if number in _JOINERS:
        return not (before > "\u0590" and unicodedata.category(before)[0] in "LMS")
    if number in _BLANK or number in _BLANK_PLANE:
        return True
    kind = unicodedata.category(char)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and number not in _SHOWN_FORMATS)


def _escape(char: str) -> str:
    number = ord(char)
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
