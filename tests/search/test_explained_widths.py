"""What channels save and lose, and which of them a file has, as `explain-search --widths` shows it."""

from __future__ import annotations

from typing import Any

import pytest

from compressctl.core.errors import UsageError
from compressctl.search.document import Point
from compressctl.search.explained_widths import rows, said
from compressctl.search.width_tables import BlockTable, GroupTable, WidthOption, WidthTables


def group(name: str, block: str | None = None, saves: float | None = 0.002) -> GroupTable:
    options = (
        WidthOption(channels=16, saves_ms=0.0 if saves else None, distance=0.0),
        WidthOption(channels=8, saves_ms=saves, distance=0.25),
    )
    return GroupTable(name=name, layers=(name, f"{name}_too"), kind=name, block=block, options=options)


TABLES = WidthTables(
    key="", distance="KL", samples=9, float_ms=2.0, integer_ms=1.0, float_bytes=1, groups=(group("stem"), group("first[1].conv", "first[1]")),
    blocks=(BlockTable(name="first[1]", saves_ms=None, distance=0.5),), layers=(), left_out=tuple("abcdefgh"), seconds=1.0,
)  # fmt: skip


def made_by(*stages: Any) -> Point:
    return Point(
        name="trimmed", family="f", words="", key="k", state="failed", seconds=1, measure_seconds=1, weight=1, kind="trained", risk=1,
        recipe={"stages": list(stages)},
    )  # fmt: skip


def chosen(point: Point | None) -> list[tuple[str, str]]:
    found, name = [], ""
    for row in rows(TABLES, point, None):
        name = row[0] or name
        if row[-1]:
            found.append((name.partition(" (")[0], row[1]))
    return found


NARROW = {"use": "prune.channels", "overrides": [{"match": "*", "keep": 1.0}, {"match": "stem_too", "keep": 0.5}]}


def test_what_a_recipe_cuts_is_marked() -> None:
    gone = {"use": "prune.layers", "match": "first[[]1]"}
    assert chosen(made_by(gone, NARROW)) == [("stem", "8"), ("block first[1]", "gone")]
    assert chosen(made_by(NARROW)) == [("stem", "8"), ("first[1].conv", "16")]
    assert chosen(None) == []


@pytest.mark.parametrize(
    "stages",
    ["none", [None, 3, {"overrides": "no"}, {"use": "prune.channels", "overrides": [{"match": 3, "keep": "x"}]}]],
)
def test_a_recipe_that_somebody_else_wrote_is_no_end(stages: Any) -> None:
    point = made_by().model_copy(update={"recipe": {"stages": stages}})
    assert chosen(point) == [("stem", "16"), ("first[1].conv", "16")]


def test_a_pattern_shows_what_it_means_and_nothing_else() -> None:
    assert [row[0] for row in rows(TABLES, None, "stem*") if row[0]] == ["stem (stem_too)"]
    with pytest.raises(UsageError, match="no channels or blocks of this search fit"):
        list(rows(TABLES, None, "nothing"))


def test_what_was_not_timed_and_what_was_left_out_is_said() -> None:
    assert [row[2] for row in rows(TABLES, None, None)][-1] == "not timed"
    told = said(TABLES, None)
    assert "2 groups of channels and 1 block on 9 training samples" in told[0]
    assert told[-1] == "and 2 more in widths.json"
