"""What a recipe took from the environment, and where the user lives: told to nobody, whatever message or file it gets into.

Libraries put values into their own errors, so what was taken is known to the whole process, like the environment itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHORTEST = 6
"""Characters. Shorter values would be found in words and figures that have nothing to do with them."""

_told_as: dict[str, str] = {}


def keep_secret(value: str, reference: str) -> None:
    """From now on the reference stands wherever the value would, also where all of it is written with escapes or in base64."""
    import json
    from base64 import b64encode, urlsafe_b64encode
    from urllib.parse import quote

    if len(value) < SHORTEST:
        return
    content = value.encode(errors="surrogateescape")
    escaped = (repr(value)[1:-1], ascii(value)[1:-1], repr(content)[2:-1], json.dumps(value)[1:-1], quote(value))
    encoded = (encode(content).decode().rstrip("=") for encode in (b64encode, urlsafe_b64encode))
    for written in (value, *escaped, *encoded):
        _told_as[written] = reference


def forget_secrets() -> None:
    _told_as.clear()


def without_secrets(value: Any) -> Any:
    """A text, or what holds texts, with references in the place of values."""
    return _each_text(value, _referred) if _told_as else value


def for_others(value: Any) -> Any:
    """The same, with `~` for the home folder, for files and messages that are passed on."""
    return _each_text(value, lambda text: _from_home(_referred(text)))


def _referred(text: str) -> str:
    if not _told_as:
        return text
    longest_first = sorted(_told_as, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: _told_as[found[0]], text)


def _from_home(text: str) -> str:
    home = home_folder()
    return text if home is None else re.sub(rf"(?<![\w.~/-]){re.escape(str(home))}(?![\w.-])", "~", text)


def home_folder() -> Path | None:
    """None where there is none, or where everything lies below it."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path.home raises where there is none
    return home if home.is_absolute() and home != Path(home.anchor) else None


def _each_text(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_each_text(key, change): _each_text(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(inner, change) for inner in value]
    return change(str(value)) if isinstance(value, Path) else value
