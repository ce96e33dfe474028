"""compressctl cache: what is kept here and in a shared cache, and removing what is too much."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compressctl.core.cache import Cache


class Action(StrEnum):
    SHOW = "show"
    TRIM = "trim"


def cache(
    action: Annotated[Action, typer.Argument(help="show, or trim --limit SIZE.")] = Action.SHOW,
    shared: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A shared cache, as in s3://bucket/cache, instead of this machine's.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="For trim: what may stay, as in 20GB.", show_default=False)
    ] = None,
) -> None:
    """Say what the caches hold, or remove entries until a limit holds: here those that were used longest ago, in a shared cache the oldest.

    \b
    Examples:
      compressctl cache
      compressctl cache trim --limit 5GB
      compressctl cache trim --shared s3://bucket/cache --limit 200GB
    """
    from compressctl.core.errors import UsageError

    most = _size(limit) if limit is not None else None
    if (action is Action.TRIM) != (most is not None):
        raise UsageError("trim needs --limit, and show takes none", hint="compressctl cache trim --limit 20GB")
    if shared is not None:
        from compressctl.store.shared_cache import trim

        found = trim(shared, most)
        print(_line(shared, found.entries, found.size) + (f", {found.removed} removed" if most is not None else ""))
        return
    for name, place in _places():
        if most is not None:
            place.trim(most)
        print(_line(name, *place.taken()))


def _places() -> Iterator[tuple[str, Cache]]:
    """Of this machine. Nothing is read from them, so that it does not matter who wrote them."""
    from compressctl.core.cache import Cache
    from compressctl.store.cache_place import cache_folder

    root = cache_folder()
    if root is None:
        return
    for place in (root / "stages", root / "downloads", *sorted((root / "shared").glob("*"))):
        if place.is_dir():
            yield str(place), Cache(place)


def _size(text: str) -> int:
    from compressctl.core.errors import UsageError
    from compressctl.recipe.schema import parse_size

    try:
        found = parse_size(text)
    except ValueError as error:
        raise UsageError(f"--limit {text}: {error}") from None
    if not isinstance(found, int):
        raise UsageError(f"--limit {text}: not a size", hint="write it like 20GB")
    return found


def _line(place: str, entries: int, size: int) -> str:
    return f"{place}: {entries} entr{'y' if entries == 1 else 'ies'}, {size / 1e6:,.1f} MB"
