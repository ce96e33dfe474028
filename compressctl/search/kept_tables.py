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
from compressctl.pipeline.executor import Executor
from compressctl.search.evaluate import Bench
from compressctl.search.measure_tables import STAGE, measure
from compressctl.search.opened import opened
from compressctl.search.tables import Tables
from compressctl.search.width_tables import WidthTables

TABLES, WIDTHS = "tables.json", "widths.json"
_MOST_BYTES = 1 << 26

_Kept = TypeVar("_Kept", Tables, WidthTables)


def tables_of(
    bench: Bench, seconds: float | None, listeners: Sequence[Listener], tell: Callable[[str], None], *, is_timed: bool
) -> Tables:
    """seconds: that measuring may take, about. is_timed: whether this machine's clock counts. Raises what loading raises,
    NothingToCompressError and StageError."""

    def measured(executor: Executor, key: str) -> Tables:
        tell("measuring what each layer costs and loses, in every width and rank")
        return measure(executor, key, bench.facts, seconds, bench.environment, is_timed=is_timed)

    return _kept_or(measured, read_table, bench, TABLES, listeners, tell)


def widths_of(
    bench: Bench, tables: Tables, seconds: float | None, listeners: Sequence[Listener], tell: Callable[[str], None]
) -> WidthTables:
    """Of a network in torch that can be trained. tables: of its graph. Raises as `tables_of` does."""
    from compressctl.search.measure_widths import measure_widths

    def measured(executor: Executor, key: str) -> WidthTables:
        tell("measuring what narrower layers and fewer blocks cost and lose")
        return measure_widths(executor, key, tables, seconds, bench.environment)

    return _kept_or(measured, read_widths, bench, WIDTHS, listeners, tell)


def _kept_or(
    measured: Callable[[Executor, str], _Kept],
    read: Callable[[Path], _Kept | None],
    bench: Bench,
    file: str,
    listeners: Sequence[Listener],
    tell: Callable[[str], None],
) -> _Kept:
    """Those of the folder, where they are of the same model, samples, target and versions; else measured and kept there."""
    recipe = bench.subject.recipe([STAGE])
    key = bench.key(recipe)
    known = read(bench.folder / file)
    if known is not None and known.key == key and known.schema_version == _version_of(type(known)):
        tell(f"what each layer costs and loses: from {file}")
        return known
    with opened(recipe, bench.cache, listeners) as executor:
        found = measured(executor, key)
    write_tables(found, bench.folder / file)
    return found


def write_tables(found: Tables | WidthTables, path: Path) -> None:
    """Whole or not at all. Raises MachineError where the folder takes nothing."""
    write_whole(path, [json.dumps(for_others(found.model_dump(mode="json")), indent=1).encode()])


def read_table(path: Path) -> Tables | None:
    """None where there is none, or one of another major version, or what is there is damaged."""
    return _read(path, Tables)


def read_widths(path: Path) -> WidthTables | None:
    """As `read_table` does."""
    return _read(path, WidthTables)


def _read(path: Path, kind: type[_Kept]) -> _Kept | None:
    """Fields are only ever added within one major version."""
    try:
        found = kind.model_validate(json.loads(read_regular(path, _MOST_BYTES)))
    except (OSError, NotRegularError, UsageError, ValueError, LookupError, TypeError, ValidationError, RecursionError):
        return None
    return found if found.schema_version.partition(".")[0] == _version_of(kind).partition(".")[0] else None


def _version_of(kind: type[Tables] | type[WidthTables]) -> str:
    return str(kind.model_fields["schema_version"].default)
