"""A recipe that says what to look for instead of stages."""

import json
from pathlib import Path

import pytest
from support.shell import Shell

from compressctl.core.errors import RecipeError, UsageError
from compressctl.pipeline.plan import make_plan
from compressctl.recipe.loader import load
from compressctl.search.request import Goal, request_of

HEAD = """recipe: compressctl/v1
model: {source: builtin, name: digits-resnet}
data: {source: digits}
"""


def recipe(folder: Path, text: str) -> Path:
    path = folder / "found.yaml"
    path.write_text(HEAD + text)
    return path


def test_every_limit_reaches_the_search(tmp_path: Path) -> None:
    text = "search: {drop: 2, speedup: 1.5, size: 80KB, prefer: size, time: 1h30m, train: {epochs: 6, learning_rate: 0.01}}"
    section = load(recipe(tmp_path, text)).search
    assert section is not None
    request = request_of(section, Path())
    assert request.goal == Goal(drop=2, speedup=1.5, size_bytes=80_000)
    assert (request.prefer, request.seconds, request.training) == ("size", 5400, {"epochs": 6, "learning_rate": 0.01})


def test_a_level_gives_what_is_not_said_and_time_may_have_no_end(tmp_path: Path) -> None:
    section = load(recipe(tmp_path, "search: {level: high, drop: 1, time: unlimited}")).search
    assert section is not None
    request = request_of(section, Path())
    assert request.goal == Goal(drop=1, smaller=8, speedup=4)
    assert (request.level, request.seconds) == ("high", None)


def test_what_is_resolved_loads_to_an_equal_recipe(tmp_path: Path) -> None:
    first = load(recipe(tmp_path, "search: {drop: 2, size: 80KB, train: {augment: {crop_padding: 1}}}"))
    again = load(tmp_path / "found.yaml", text=json.dumps(first.resolved))
    assert again.search == first.search
    assert again.resolved == first.resolved


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("search: {drop: 1}\nstages: [{use: cast}]", "found.yaml:5", "a search chooses this itself"),
        ("search: {drop: 1}\nbudget: {size: 1MB}", "found.yaml:5", "a search chooses this itself"),
        ("search: {dropp: 1}", "found.yaml:4", "did you mean drop"),
        ("search: {drop: -1}", "found.yaml:4", "less than 0"),
        ("search: {level: higher}", "found.yaml:4", "high"),
        ("search: {time: soon}", "found.yaml:4", "30m"),
        ("search: {train: {epoch: 3}}", "found.yaml:4", "did you mean epochs"),
        ("search: {train: {epochs: many}}", "found.yaml:4", "not a whole number"),
        ("search: [1]", "found.yaml:4", "search is a mapping"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load(recipe(tmp_path, text))
    said = str(raised.value)
    assert place in said
    assert words in said, said


def test_nothing_takes_it_for_a_recipe_without_stages(tmp_path: Path) -> None:
    """It would export the original, and call that a result."""
    with pytest.raises(UsageError, match="has no stages yet"):
        make_plan(load(recipe(tmp_path, "search: {drop: 1}")), None)


@pytest.mark.parametrize(
    ("options", "launched", "named"),
    [
        (("--dry-run",), {}, "--dry-run"),
        (("--strict",), {}, "--strict"),
        (("--measure", "quick"), {}, "--measure"),
        (("--log-format", "json"), {}, "--log-format json"),
        ((), {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "several processes"),
    ],
)
def test_apply_refuses_what_says_nothing_to_a_search(
    shell: Shell, options: tuple[str, ...], launched: dict[str, str], named: str
) -> None:
    recipe(shell.folder, "search: {drop: 1}")
    measured = () if "--measure" in options else ("--measure", "stages")
    done = shell.run("apply", "found.yaml", *options, *measured, **launched)
    assert done.code == 2
    assert f"{named}: not for a recipe with a section `search`" in done.err
    assert not (shell.folder / "auto").exists()
