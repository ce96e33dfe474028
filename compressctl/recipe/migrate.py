"""A recipe's text with the names that keys and values have now: nothing else in it changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from compressctl.core.errors import Problem, RecipeError, UsageError
from compressctl.core.regular_files import read_regular
from compressctl.recipe.compose import merged
from compressctl.recipe.renames import Renamed
from compressctl.recipe.strict_yaml import LINE_BREAK, MAX_BYTES


def migrated(path: Path) -> tuple[str, str]:
    """The file's text, and the same in new names; what it extends is read, and stays as it is. Raises UsageError."""
    renamed = merged(path).renamed
    try:
        text = read_regular(path, MAX_BYTES).decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return text, rewritten(text, [one for one in renamed if one.origin.source == str(path)])


def rewritten(text: str, renamed: Sequence[Renamed]) -> str:
    """text: as the file holds it, with whatever ends its lines. Raises RecipeError where an old name is spelled in a way of its own."""
    starts = [0, *(match.end() for match in re.finditer(LINE_BREAK, text))]
    mark = len(text) - len(text.removeprefix("\ufeff"))
    for one in sorted(renamed, key=lambda one: (one.origin.line or 0, one.origin.column or 0), reverse=True):
        assert one.origin.line is not None
        assert one.origin.column is not None
        place = starts[one.origin.line - 1] + one.origin.column - 1 + (mark if one.origin.line == 1 else 0)
        quote = text[place] if text[place] in "'\"" else ""
        old, new = (f"{quote}{name}{quote}" for name in (one.old, one.new))
        if not text.startswith(old, place):
            problem = Problem(
                f"write `{one.new}` instead, which is what this is called now", one.problem.path, None, one.origin
            )
            raise RecipeError([problem])
        rest = _with_comment_in_place(text[place + len(old) :], len(new) - len(old))
        text = text[:place] + new + rest
    return text


def _with_comment_in_place(rest: str, longer: int) -> str:
    """rest: of a text, from within a line. A comment at the line's end stays in its column while two spaces are left before it."""
    comment = _COMMENT.match(rest)
    if comment is None:
        return rest
    before, spaces = comment.groups()
    return before + " " * max(2, len(spaces) - longer) + rest[comment.end() :]


_COMMENT = re.compile(r"([^'\"#\r\n]*?)( {2,})(?=#)")
