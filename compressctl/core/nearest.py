"""The name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The closest of the known names, None when none is close. Imported late: only messages about mistakes need it."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return close[0] if close else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """A hint: the closest name, or all of them when none is close."""
    names = list(known)
    close = nearest(name, names)
    return f"did you mean {close}?" if close else f"known: {', '.join(names)}"
