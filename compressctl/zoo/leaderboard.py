"""The results of a zoo as rows: one for each job, what it won and what it lost, and what is another than the last time."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from compressctl.core.errors import CompressctlError
from compressctl.core.legible import legible, without_commands
from compressctl.core.regular_files import read_regular
from compressctl.core.whole_files import write_whole
from compressctl.zoo import as_html, as_junit, as_markdown
from compressctl.zoo.results import Count, Figure, JobResult, Outcome, Ratio, all_results

_ROWS, _BEFORE = "leaderboard.jsonl", "leaderboard.before.jsonl"
_MOST_BYTES = 1 << 28
"""Of rows: 100,000 with a line each of what was said."""


@dataclass(frozen=True)
class Row:
    """smaller, faster: ratios, with the interval of the second. sqnr_db, cosine: of the worst output against the original's.

    None: not measured. report, log, found_recipe: relative to the zoo's folder.
    """

    job: str
    model: str
    recipe: str
    outcome: str
    smaller: Ratio | None
    faster: Ratio | None
    faster_low: Ratio | None
    faster_high: Ratio | None
    metric: str | None
    score_before: Figure | None
    score_after: Figure | None
    sqnr_db: Figure | None
    cosine: Figure | None
    size_before: Count | None
    size_after: Count | None
    seconds: Ratio
    message: str
    report: str | None
    log: str
    notes: str = ""
    found_recipe: str | None = None


_ROW = TypeAdapter(Row)


@dataclass(frozen=True)
class Leaderboard:
    """changes: in words, against the rows of the run before. causes: how many jobs ended in each way."""

    name: str
    rows: list[Row]
    changes: list[str]

    @property
    def causes(self) -> dict[Outcome, int]:
        counts = Counter(row.outcome for row in self.rows)
        return {outcome: counts[outcome] for outcome in Outcome if counts[outcome]}


def leaderboard(name: str, folder: Path, jobs: Container[str] | None = None) -> Leaderboard:
    """Of all results in a zoo's folder. jobs: of these alone."""
    rows = [row_of(result) for result in all_results(folder, jobs)]
    return Leaderboard(name, rows, list(_changes(_read(folder / _BEFORE), rows)))


def begin_anew(folder: Path) -> None:
    """What stands on the leaderboard now is what the next one is compared with."""
    if (folder / _ROWS).is_file():
        (folder / _ROWS).replace(folder / _BEFORE)


def write(board: Leaderboard, folder: Path) -> list[Path]:
    """All of its files; their paths. Raises what write_whole does."""
    paths = []
    for file, render in _RENDERED.items():
        write_whole(folder / file, [without_commands(legible(render(board))).encode(errors="replace")])
        paths.append(folder / file)
    return paths


def row_of(result: JobResult) -> Row:
    """The first line of what it says."""
    figures = result.figures
    headline = figures.headline if figures is not None and result.outcome in (Outcome.GOOD, Outcome.MISSED) else ""
    return Row(
        job=result.job,
        model=result.model,
        recipe=result.recipe,
        outcome=str(result.outcome),
        smaller=round(figures.smaller, 4) if figures is not None else None,
        faster=figures.speed if figures is not None else None,
        faster_low=figures.speed_low if figures is not None else None,
        faster_high=figures.speed_high if figures is not None else None,
        metric=figures.metric if figures is not None else None,
        score_before=figures.score_before if figures is not None else None,
        score_after=figures.score_after if figures is not None else None,
        sqnr_db=figures.sqnr_db if figures is not None else None,
        cosine=figures.cosine if figures is not None else None,
        size_before=figures.size_before if figures is not None else None,
        size_after=figures.size_after if figures is not None else None,
        seconds=round(result.seconds, 1),
        message=next(iter((headline or result.message).splitlines()), ""),
        report=result.report,
        log=result.log,
        notes="; ".join(result.notes),
        found_recipe=result.found_recipe,
    )


def _changes(before: Mapping[str, Row], after: Iterable[Row]) -> Iterator[str]:
    """Jobs that end otherwise, that are new or gone, and sizes that differ. Speeds vary by themselves: a change is one where no speed fits both intervals."""
    seen = set()
    for row in after:
        seen.add(row.job)
        old = before.get(row.job)
        if old is None:
            if before:
                yield f"{row.job}: new, {row.outcome}"
        elif old.outcome != row.outcome:
            yield f"{row.job}: {old.outcome} before, {row.outcome} now"
        else:
            yield from _differences(old, row)
    for name in before:
        if name not in seen:
            yield f"{name}: gone"


def _differences(old: Row, row: Row) -> Iterator[str]:
    if old.size_after != row.size_after and old.size_after and row.size_after:
        yield f"{row.job}: {old.size_after:,} bytes before, {row.size_after:,} now"
    speeds = (old.faster, old.faster_low, old.faster_high, row.faster, row.faster_low, row.faster_high)
    if None not in speeds and (
        (row.faster_low or 0) > (old.faster_high or 0) or (row.faster_high or 0) < (old.faster_low or 0)
    ):
        yield f"{row.job}: {old.faster:.2f}x as fast before, {row.faster:.2f}x now"


def _read(file: Path) -> dict[str, Row]:
    """Rows of another time; none where they cannot be read."""
    try:
        lines = read_regular(file, _MOST_BYTES).splitlines()
        return {row.job: row for row in map(_ROW.validate_json, lines)}
    except (OSError, CompressctlError, ValidationError):
        return {}


def _as_csv(board: Leaderboard) -> str:
    """What a spreadsheet would take for a formula begins with an apostrophe."""
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(Row.__dataclass_fields__)
    for row in board.rows:
        table.writerow(["" if value is None else _no_formula(value) for value in asdict(row).values()])
    return written.getvalue()


def _no_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


def _as_lines(board: Leaderboard) -> str:
    return "".join(f"{json.dumps(asdict(row))}\n" for row in board.rows)


_RENDERED: Mapping[str, Callable[[Leaderboard], str]] = {
    _ROWS: _as_lines,
    "leaderboard.csv": _as_csv,
    "leaderboard.md": lambda board: as_markdown.render(board.name, board.rows, board.causes, board.changes),
    "leaderboard.junit.xml": lambda board: as_junit.render(board.name, board.rows),
    "leaderboard.html": lambda board: as_html.render(board.name, board.rows, board.causes, board.changes),
}
