"""Which parts of a model a recipe's pattern means."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import Field

from compressctl.core.errors import UsageError
from compressctl.core.needs import Section


class UnmatchedPatternError(UsageError):
    """A pattern that fits nothing in the model."""

    def __init__(self, message: str, pattern: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pattern = pattern


class Override(Section):
    """Another treatment for the parts of a model that a pattern matches."""

    match: str = Field(
        description="shell-style pattern over names of layers, nodes and weights and over their types; matching nothing is an error, see `unmatched`",
        min_length=1,
    )


def literal(name: str) -> str:
    """The pattern that fits a name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


_Part = TypeVar("_Part")
_Given = TypeVar("_Given", bound=Override)
_SHOWN, _LONGEST_PATTERN = 8, 1000


def matches(pattern: str, names: Iterable[str | None]) -> bool:
    """Whether a shell pattern (`*`, `?`, `[...]`; case counts) fits one of the names under which a part is known.

    Raises UsageError for one that takes minutes to be understood.
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise UsageError(f"a pattern of {len(pattern):,} letters; {_LONGEST_PATTERN:,} are allowed")
    return any(fnmatch.fnmatchcase(name, pattern) for name in names if name)


def matching(
    pattern: str,
    parts: Sequence[_Part],
    names: Callable[[_Part], Iterable[str | None]],
    *,
    key: str = "overrides",
    what: str = "layer",
    also: Iterable[str] = (),
) -> list[_Part]:
    """The parts that a pattern of a recipe means. names: of a part, the one to show first. also: names that it may mean besides.

    Raises UnmatchedPatternError for a pattern that means nothing: a slip, which would otherwise change nothing without a word.
    """
    found = [part for part in parts if matches(pattern, names(part))]
    if found or matches(pattern, also):
        return found
    shown = ", ".join(next((name for name in names(part) if name), "") for part in parts[:_SHOWN])
    more = ", ..." if len(parts) > _SHOWN else ""
    raise UnmatchedPatternError(
        f"{key}: {pattern!r} matches no {what}", pattern, hint=f"there are: {shown}{more}" if parts else None
    )


def last_overrides(overrides: Sequence[_Given], parts: Mapping[str, Sequence[str | None]]) -> dict[str, _Given]:
    """By part, the last override that means it. parts: by name, what a pattern may call each."""
    return {
        name: override
        for override in overrides
        for name in matching(override.match, list(parts), lambda name: parts[name])
    }
