"""Why a search chose what it chose, layer by layer: what every option takes and loses, and which of them a file has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compressctl.core.errors import UsageError
from compressctl.core.nearest import suggestion
from compressctl.core.patterns import literal, matches
from compressctl.core.regular_files import NotRegularError, read_regular
from compressctl.report.tables import size
from compressctl.search.document import Point, Search
from compressctl.search.kept_tables import TABLES, read_table
from compressctl.search.tables import LayerOption, LayerTable, Tables

HEAD = ("layer", "option", "size", "adds", "far alone", "")
_MOST_BYTES = 1 << 28
SHOWN = 6
"""Lines of what was left out."""


def read_search(folder: Path) -> Search:
    """Of its folder. Raises UsageError where it holds none."""
    file = folder / "search.json"
    try:
        return Search.model_validate_json(read_regular(file, _MOST_BYTES))
    except (OSError, NotRegularError, ValueError, ValidationError, RecursionError):
        if file.is_file():
            raise damaged(file) from None
        raise UsageError(
            f"{folder} holds no search", hint="name the folder that `compressctl auto` wrote, as in auto/model"
        ) from None


def damaged(file: Path) -> UsageError:
    return UsageError(
        f"{file} is damaged, or another version's", hint="start the search again: it goes on from what it has finished"
    )


def read(folder: Path) -> tuple[Search, Tables]:
    """Of a search's folder. Raises UsageError where it holds none, or none that looked at layers one by one."""
    found = read_search(folder)
    tables = read_table(folder / TABLES) if found.tables is not None else None
    if tables is None and found.tables is not None and (folder / TABLES).is_file():
        raise damaged(folder / TABLES)
    if tables is None:
        why = next((note for note in found.notes if "one by one" in note), "")
        raise UsageError(
            f"{folder} has no {TABLES}: this search looked at no single layers" + (f". {why}" if why else ""),
            hint="it takes samples to calibrate and to choose by, and time: `compressctl auto MODEL --data DATA --time 30m`",
        )
    return found, tables


def point_of(found: Search, name: str | None) -> Point | None:
    """The one of that name; without a name the one that was chosen if it was planned by the tables, else the best planned one that
    holds, or lost least. Raises UsageError for a name that there is not."""
    planned = [one for one in found.points if one.kind == "planned" and one.figures is not None]
    if name is not None:
        return named(found, name)
    chosen = [one for one in planned if one.name == found.chosen] or [one for one in planned if one.holds] or planned
    return min(chosen, key=lambda one: one.figures.total_bytes if one.figures else 0, default=None)


def named(found: Search, name: str) -> Point:
    """Raises UsageError for a name that there is not."""
    known = {one.name: one for one in found.points}
    if name not in known:
        raise UsageError(f"--point {name}: this search has no such file", hint=suggestion(name, known))
    return known[name]


def rows(tables: Tables, point: Point | None, pattern: str | None) -> Iterator[list[str]]:
    """A row for each option of each layer that the pattern means, the layer's name in its first. Raises UsageError where it means none."""
    shown = [one for one in tables.layers if pattern is None or matches(pattern, (*one.nodes, one.op))]
    if not shown:
        raise UsageError(
            f"--layer {pattern}: no layer of this search fits",
            hint=f"there are: {', '.join(one.name for one in tables.layers[:8])}",
        )
    decided = {} if point is None else _decided(point.recipe)
    for layer in shown:
        chosen = _chosen(layer, decided) if point is not None else None
        for place, option in enumerate(layer.options):
            name = f"{layer.name} ({layer.op}, {layer.parameters:,})" if place == 0 else ""
            mark = "chosen" if option is chosen else ""
            yield [name, option.name, size(option.bytes), _adds(option), _far(option), mark]


def _adds(option: LayerOption) -> str:
    return "not timed" if option.adds_ms is None else f"{1000 * option.adds_ms + 0.0:+,.1f} us"


def _far(option: LayerOption) -> str:
    return f"{sum(option.distance.values()):.2g}" if option.distance else "not compared"


def _decided(recipe: Mapping[str, Any]) -> dict[str, str]:
    """By the pattern of an override: a rank, or a width. Whoever wrote the folder may have written anything."""
    found: dict[str, str] = {}
    for stage in mappings(recipe.get("stages")):
        for override in mappings(stage.get("overrides")):
            pattern, width, rank, clusters, bits = (
                override.get(key) for key in ("match", "weights", "rank", "clusters", "bits")
            )
            if not isinstance(pattern, str):
                continue
            if stage.get("use") == "factorize.svd" and isinstance(rank, int):
                found[pattern] = f"{override.get('conv')} rank {rank}"
            elif stage.get("use") == "share.kmeans" and isinstance(clusters, int):
                found[pattern] = f"shared{clusters}"
            elif stage.get("use") == "quantize.weights" and isinstance(bits, int):
                found[pattern] = f"weights{bits}"
            elif stage.get("use") == "quantize.static" and isinstance(width, str):
                found.setdefault(
                    pattern, width
                )  # what is shared has 8 bits too, and weights alone are float to this stage
    return found


def mappings(values: Any) -> list[Mapping[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list | tuple) else []


def _chosen(layer: LayerTable, decided: Mapping[str, str]) -> LayerOption | None:
    name = decided.get(literal(layer.name))
    return next((one for one in layer.options if one.name == name), None)


def said(tables: Tables, found: Search, point: Point | None) -> list[str]:
    """What the table is of, in sentences."""
    timed = (
        "Nothing was timed."
        if tables.float_ms is None or tables.integer_ms is None
        else f"One call takes {tables.float_ms:.4g} ms in float and {tables.integer_ms:.4g} ms with every layer in 8 bits; `adds` is what an option "
        "adds to the latter."
    )
    lines = [
        f"{len(tables.layers)} layers on {tables.samples} {tables.split} samples. {timed}",
        f"`far alone`: {tables.distance}, with that layer alone changed. Files that were planned add them up, scaled to what was measured.",
        *tables.left_out[:SHOWN],
        *([f"and {len(tables.left_out) - SHOWN} more in {TABLES}"] if len(tables.left_out) > SHOWN else []),
    ]
    if point is not None:
        told = point.predicted
        expected = ""
        if told is not None and told.times_faster is not None and told.loss is not None:
            expected = f": foretold {size(told.total_bytes)}, {told.times_faster:.2f}x, {told.loss:.2f} lost"
        lines.append(f"Chosen: those of {point.name}{expected}.")
    return lines
