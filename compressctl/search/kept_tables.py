"""The tables of a search in its folder: measured once, read again by every start, and by whoever explains it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from compressctl.core.errors import UsageError
from compressctl.core.events import Listener
from compressctl.core.regular_files import NotRegularError, read_regular
from compressctl.core.secrets import for_others
from compressctl.core.whole_files import write_whole
from compressctl.search.evaluate import Bench
from compressctl.search.measure_tables import STAGE, measure
from compressctl.search.opened import opened
from compressctl.search.tables import TABLES_VERSION, Tables
from compressctl.search.width_tables import WIDTHS_VERSION, WidthTables

TABLES, WIDTHS = "tables.json", "widths.json"
_MOST_BYTES = 1 << 26


def tables_of(
    bench: Bench, seconds: float | None, listeners: Sequence[Listener], tell: Callable[[str], None], *, is_timed: bool
) -> Tables:
    """seconds: that measuring may take, about. is_timed: whether this machine's clock counts. Raises what loading raises,
    NothingToCompressError and StageError."""
    recipe = bench.subject.recipe([STAGE])
    key = bench.key(recipe)
    known = read_table(bench.folder / TABLES)
    if known is not None and known.key == key:
        tell(f"what each of {len(known.layers)} layers costs and loses: from {TABLES}")
        return known
    tell("measuring what each layer costs and loses, in every width and rank")
    with opened(recipe, bench.cache, listeners) as executor:
        found = measure(executor, key, bench.facts, seconds, bench.environment, is_timed=is_timed)
    write_tables(found, bench.folder / TABLES)
    return found


def widths_of(
    bench: Bench, tables: Tables, seconds: float | None, listeners: Sequence[Listener], tell: Callable[[str], None]
) -> WidthTables:
    """Of a network in torch that can be trained. tables: of its graph. Raises as `tables_of` does."""
    recipe = bench.subject.recipe([STAGE])
    key = bench.key(recipe)
    known = read_widths(bench.folder / WIDTHS)
    if known is not None and known.key == key:
        tell(f"what narrower layers and fewer blocks lose: from {WIDTHS}")
        return known
    tell("measuring what narrower layers and fewer blocks cost and lose")
    from compressctl.search.measure_widths import measure_widths

    with opened(recipe, bench.cache, listeners) as executor:
        found = measure_widths(executor, key, tables, seconds, bench.environment)
    write_tables(found, bench.folder / WIDTHS)
    return found


def write_tables(found: Tables | WidthTables, path: Path) -> None:
    """Whole or not at all. Raises MachineError where the folder takes nothing."""
    write_whole(path, [json.dumps(for_others(found.model_dump(mode="json")), indent=1).encode()])


def read_table(path: Path) -> Tables | None:
    """None where there is none, or one of another version, or what is there is damaged."""
    return _read(path, Tables, TABLES_VERSION)


def read_widths(path: Path) -> WidthTables | None:
    """As `read_table` does."""
    return _read(path, WidthTables, WIDTHS_VERSION)


_Kept = TypeVar("_Kept", Tables, WidthTables)


def _read(path: Path, kind: type[_Kept], version: str) -> _Kept | None:
    try:
        content = json.loads(read_regular(path, _MOST_BYTES))
        if content["schema_version"] != version:
            return None
        return kind.model_validate(content)
    except (OSError, NotRegularError, UsageError, ValueError, LookupError, TypeError, ValidationError, RecursionError):
        return None
