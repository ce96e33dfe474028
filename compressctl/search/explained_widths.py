"""Why a search cut a network as it did: what fewer channels and blocks save and lose, and which of them a file has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.core.patterns import literal, matches
from compressctl.search.document import Point, Search
from compressctl.search.explained import SHOWN, damaged, mappings, named, read_search
from compressctl.search.kept_tables import WIDTHS, read_widths
from compressctl.search.width_tables import GroupTable, WidthTables

HEAD = ("channels of", "stay", "saves", "far alone", "")


def read(folder: Path) -> tuple[Search, WidthTables]:
    """Of a search's folder. Raises UsageError where it holds none, or none that looked at channels."""
    found = read_search(folder)
    tables = read_widths(folder / WIDTHS) if found.widths is not None else None
    if tables is None and found.widths is not None and (folder / WIDTHS).is_file():
        raise damaged(folder / WIDTHS)
    if tables is None:
        why = next((note for note in found.notes if "Channels were not chosen" in note), "")
        raise UsageError(
            f"{folder} has no {WIDTHS}: this search looked at no channels" + (f". {why}" if why else ""),
            hint="it takes a network in torch, labels, and a limit on size or speed that nothing kept without training",
        )
    return found, tables


def trimmed(found: Search, name: str | None) -> Point | None:
    """The one of that name; without a name the one that was handed over, else the first that these tables chose. Raises UsageError for a
    name that there is not."""
    if name is not None:
        return named(found, name)
    of_tables = [one for one in found.points if one.name.startswith("trimmed")]
    return next((one for one in of_tables if one.name == found.chosen), next(iter(of_tables), None))


def rows(tables: WidthTables, point: Point | None, pattern: str | None) -> Iterator[list[str]]:
    """A row for each number of channels, then one for each block. Raises UsageError where the pattern means none."""
    groups = [one for one in tables.groups if pattern is None or matches(pattern, one.layers)]
    blocks = [one for one in tables.blocks if pattern is None or matches(pattern, (one.name,))]
    if not groups and not blocks:
        raise UsageError(
            f"--layer {pattern}: no channels or blocks of this search fit",
            hint=f"there are: {', '.join(one.name for one in tables.groups[:8])}",
        )
    stages = [] if point is None else mappings(point.recipe.get("stages"))
    kept, gone = _shares(stages), _gone(stages)
    for group in groups:
        stays = _stays(group, kept, gone)
        for place, option in enumerate(group.options):
            name = f"{group.name} ({', '.join(group.layers[1:4])})" if group.layers[1:] else group.name
            mark = "chosen" if point is not None and option.channels == stays else ""
            yield [
                name if place == 0 else "",
                str(option.channels),
                _ms(option.saves_ms),
                f"{option.distance:.2g}",
                mark,
            ]
    for block in blocks:
        yield [
            f"block {block.name}",
            "gone",
            _ms(block.saves_ms),
            f"{block.distance:.2g}",
            "chosen" if literal(block.name) in gone else "",
        ]


def _shares(stages: list[Mapping[str, Any]]) -> dict[str, float]:
    """By pattern. Whoever wrote the folder may have written anything."""
    return {
        override["match"]: float(override["keep"])
        for stage in stages
        if stage.get("use") == "prune.channels"
        for override in mappings(stage.get("overrides"))
        if isinstance(override.get("match"), str) and isinstance(override.get("keep"), int | float)
    }


def _gone(stages: list[Mapping[str, Any]]) -> set[str]:
    """Patterns, each of one block."""
    return {str(stage.get("match")) for stage in stages if stage.get("use") == "prune.layers"}


def _stays(group: GroupTable, kept: Mapping[str, float], gone: set[str]) -> int | None:
    """Channels; None where the group's block is gone."""
    if group.block is not None and literal(group.block) in gone:
        return None
    whole = group.options[0].channels
    return next((round(kept[literal(name)] * whole) for name in group.layers if literal(name) in kept), whole)


def _ms(saved: float | None) -> str:
    return "not timed" if saved is None else f"{1000 * saved + 0.0:,.1f} us"


def said(tables: WidthTables, point: Point | None) -> list[str]:
    """What the table is of, in sentences."""
    timed = (
        "Nothing was timed."
        if tables.float_ms is None or tables.integer_ms is None
        else f"One call takes {tables.float_ms:.4g} ms in float and {tables.integer_ms:.4g} ms in 8 bits; `saves` is of the latter, by what a "
        "multiply-accumulate takes there."
    )
    lines = [
        f"{_count(len(tables.groups), 'group')} of channels and {_count(len(tables.blocks), 'block')} on {tables.samples} training samples. {timed}",
        f"`far alone`: {tables.distance}, with that cut alone, norms measured anew and nothing trained.",
        *tables.left_out[:SHOWN],
        *([f"and {len(tables.left_out) - SHOWN} more in {WIDTHS}"] if len(tables.left_out) > SHOWN else []),
    ]
    return [*lines, *([f"Chosen: those of {point.name}."] if point is not None else [])]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
