"""What explain-search shows: every option, the chosen ones marked, and a message where there is nothing to show."""

import json
from pathlib import Path
from typing import Any

import pytest
from search.test_pages import found
from search.test_program import layer, tables
from support.searching import figures, point
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.search.document import Predicted, Search
from compressctl.search.planned import Planner
from compressctl.search.request import Goal

TABLES = tables(*(layer(1000 + 10 * n, 0.01 * n, 0.4 * n, 0.05 * n) for n in range(1, 6)))


def written(folder: Path, **changes: Any) -> Search:
    """A search whose planned files are two, one of them chosen."""
    planner = Planner(TABLES, Goal(drop=1.0), None, "size")
    points = {"int8": point("int8", figures(7400, 2.0, 0.3)), "w4a8": point("w4a8", figures(3800, 2.0, 12.0))}
    for one in planner.more(points):
        points[one.name] = point(
            one.name, figures(5000, 2.0, 0.5), kind="planned", holds=True, recipe={"stages": list(one.stages)},
            predicted=Predicted(by="tables", total_bytes=5100, times_faster=1.9, loss=0.4),
        )  # fmt: skip
    chosen = next(iter(planner.choices))
    result = found(list(points.values()), **{"tables": "tables.json", "chosen": chosen, **changes})
    (folder / "search.json").write_text(result.model_dump_json())
    (folder / "tables.json").write_text(TABLES.model_dump_json())
    return result


def shown(folder: Path, *more: str) -> str:
    done = CliRunner().invoke(app, ["explain-search", str(folder), *more])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_every_option_of_every_layer_is_shown_and_one_of_each_is_chosen(tmp_path: Path) -> None:
    result = written(tmp_path)
    text = shown(tmp_path)
    assert text.count("int4") == 5
    assert len([line for line in text.splitlines() if line.rstrip().endswith("chosen")]) == 5
    assert f"Chosen: those of {result.chosen}" in text
    assert "foretold 5.1 kB, 1.90x, 0.40 lost" in text.replace("\n", " ")


def test_a_pattern_names_layers_and_a_point_another_file(tmp_path: Path) -> None:
    written(tmp_path)
    text = shown(tmp_path, "--layer", "conv[12]", "--point", "layers1-2")
    assert "conv1 (Conv" in text
    assert "conv3 (Conv" not in text
    assert "those of layers1-2" in text


def test_the_json_is_the_tables(tmp_path: Path) -> None:
    written(tmp_path)
    assert json.loads(shown(tmp_path, "--json")) == json.loads(TABLES.model_dump_json())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--layer", "nothing*"], "no layer of this search fits"),
        (["--point", "layers1-9"], "did you mean layers1-"),
    ],
)
def test_slips_are_named(arguments: list[str], says: str, tmp_path: Path) -> None:
    written(tmp_path)
    done = CliRunner().invoke(app, ["explain-search", str(tmp_path), *arguments])
    assert done.exit_code == 2
    assert says in done.stderr


@pytest.mark.parametrize("file", ["tables.json", "search.json"])
def test_a_damaged_file_is_said_to_be_damaged(file: str, tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / file).write_text("{")
    done = CliRunner().invoke(app, ["explain-search", str(tmp_path)])
    assert done.exit_code == 2
    assert f"{file} is damaged" in done.stderr


def test_a_search_that_looked_at_no_layers_says_why(tmp_path: Path) -> None:
    written(tmp_path, tables=None, notes=("Layers were not looked at one by one: there was no time left.",))
    done = CliRunner().invoke(app, ["explain-search", str(tmp_path)])
    assert done.exit_code == 2
    assert "there was no time left" in done.stderr
