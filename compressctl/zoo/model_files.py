"""Files that fit a pattern, found in one pass, so that neither links nor patterns make a folder a maze."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.zoo.results import zoo_name

MOST_FILES, _MOST_ENTRIES = 100_000, 2_000_000
_ANY_FOLDERS = "**"


def files_for(base: Path, pattern: str) -> list[Path]:
    """By name; no folders, nothing hidden that the pattern does not name. base: where a relative pattern starts, whose name is no pattern.

    `**` follows no link, other steps do, and enters no folder that zoos, runs and searches wrote: what they export are no models of a zoo.
    Raises UsageError for a pattern that finds more than a zoo may have, or looks through a whole disk.
    """
    steps = tuple(Path(pattern).parts[len(_fixed(pattern)) :])
    found = []
    for file in _found(fixed_part(base, pattern), steps, pattern):
        found.append(file)
        if len(found) > MOST_FILES:
            raise UsageError(
                f"more than {MOST_FILES:,} files fit {pattern}", hint="name the ending, as in `models/*.onnx`"
            )
    return sorted(found)


def fixed_part(base: Path, pattern: str) -> Path:
    """The folder before the first step with a wildcard."""
    return base.joinpath(*_fixed(pattern))


def _fixed(pattern: str) -> tuple[str, ...]:
    steps = Path(pattern).parts
    first = next((number for number, step in enumerate(steps) if glob.has_magic(step)), len(steps) - 1)
    return steps[: max(first, 0)]


def _found(start: Path, steps: tuple[str, ...], pattern: str) -> Iterator[Path]:
    """Every folder is listed once, with all the places in the pattern at which it may stand."""
    folders, looked_at = [(start, _with_none_skipped({0}, steps))], 0
    while folders:
        folder, places = folders.pop()
        for entry in _entries(folder):
            looked_at += 1
            if looked_at > _MOST_ENTRIES:
                raise UsageError(
                    f"{pattern} looks through more than {_MOST_ENTRIES:,} files", hint="name the folder of the models"
                )
            reached = _reached(entry, places, steps)
            with suppress(OSError):  # links that lead to themselves
                if len(steps) in reached and entry.is_file():
                    yield folder / entry.name
                elif reached - {len(steps)} and entry.is_dir():
                    if _is_written(folder / entry.name):
                        reached = _reached(entry, places, steps, by_any=False)
                    folders.append((folder / entry.name, reached))


def _is_written(folder: Path) -> bool:
    """Whether a zoo, a run or a search of ours lies there."""
    return (
        zoo_name(folder) is not None
        or all((folder / name).is_file() for name in ("events.jsonl", "recipe.lock.yaml"))
        or ((folder / "search.json").is_file() and (folder / "journal").is_dir())
    )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """None where it cannot be listed."""
    with suppress(OSError, ValueError), os.scandir(folder) as entries:
        yield from entries


def _reached(
    entry: os.DirEntry[str], places: frozenset[int], steps: tuple[str, ...], *, by_any: bool = True
) -> frozenset[int]:
    """Where in the pattern one stands behind this entry. by_any: whether `**` may mean it."""
    reached = set()
    for place in places:
        if place == len(steps):
            continue
        step = steps[place]
        if entry.name.startswith(".") and not step.startswith("."):
            continue
        if step != _ANY_FOLDERS:
            reached |= {place + 1} if fnmatchcase(entry.name, step) else set()
        elif by_any and not entry.is_symlink():
            reached.add(place)
    return _with_none_skipped(reached, steps)


def _with_none_skipped(places: set[int], steps: tuple[str, ...]) -> frozenset[int]:
    """`**` may stand for no folder at all."""
    found = set(places)
    for place, step in enumerate(steps[:-1]):
        if place in found and step == _ANY_FOLDERS:
            found.add(place + 1)
    return frozenset(found)
