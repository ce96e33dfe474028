"""Old names of keys and values: they count, are warned of at their place, and `migrate` writes the new ones."""

import json
import stat
import warnings
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import compressctl
from compressctl.cli.main import app
from compressctl.core.errors import RecipeError, RenamedWarning
from compressctl.recipe.loader import load, read
from compressctl.recipe.migrate import rewritten
from compressctl.recipe.renames import RENAMES, Rename, Renamed, with_new_names
from compressctl.recipe.schema import Recipe
from compressctl.recipe.strict_yaml import Source, parse

HEAD = (
    "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits, calibration: 100}\n"
)
OLD = """# A recipe of an earlier version.
recipe: compressctl/v1
model: {source: builtin, name: digits-resnet}
data: {source: digits, calibration: 100}
target: {batch: 2}            # samples at once
stages:
  - use: prune.channels
    sparse:                   # towards zero first
      "average": 0.9
      augment: {crop: 1, flip: true}
      keep: last
    reestimate: 256   # BatchNorm
    at_least: 0.2
  - use: quantize.static
    gate: {accuracy_drop: 1, otherwise: 'skip'}
export: [{backend: onnxruntime, storage: packed}]
"""
NEW = """# A recipe of an earlier version.
recipe: compressctl/v1
model: {source: builtin, name: digits-resnet}
data: {source: digits, calibration: 100}
target: {batch_size: 2}       # samples at once
stages:
  - use: prune.channels
    regularization:           # towards zero first
      "ema_decay": 0.9
      augment: {crop_padding: 1, horizontal_flip: true}
      checkpoint: last
    bn_samples: 256   # BatchNorm
    min_keep: 0.2
  - use: quantize.static
    gate: {accuracy_drop: 1, otherwise: 'undo'}
export: [{backend: onnxruntime, storage: compressed}]
"""


def _write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


def _quietly(path: Path, sets: tuple[str, ...] = (), unsets: tuple[str, ...] = ()) -> tuple[Recipe, list[str]]:
    """The recipe, and each old name with the new one."""
    recipe, renamed = read(path, sets, unsets)
    return recipe, [f"{one.old} -> {one.new}" for one in renamed]


def test_old_names_mean_what_the_new_ones_mean(tmp_path: Path) -> None:
    old, renamed = _quietly(_write(tmp_path, OLD))
    new, none = _quietly(_write(tmp_path, NEW))
    assert old.resolved == new.resolved
    assert (len(renamed), none) == (10, [])


def test_a_warning_names_the_new_key_and_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = _write(tmp_path, OLD)
    with pytest.warns(RenamedWarning) as told:
        load(path)
    (said,) = [str(warning.message) for warning in told]
    assert f"{path}:5:10  target.batch: `batch` is called `batch_size` now" in said
    assert f"{path}:9:7  stages[0].sparse.average: `average` is called `ema_decay` now" in said
    assert f"{path}:15:41  stages[1].gate.otherwise: `skip` is called `undo` now" in said
    assert "`compressctl migrate`" in said


def test_new_names_are_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(_write(tmp_path, NEW))


def test_parents_and_children_may_use_different_names(tmp_path: Path) -> None:
    _write(tmp_path, OLD.replace("use: prune", "id: slim\n    use: prune"), "old.yaml")
    child = "extends: old.yaml\nstages: [{id: slim, regularization: {epochs: 3}, bn_samples: 64}]\n"
    recipe, _ = _quietly(_write(tmp_path, child))
    params = recipe.stages[0].params.model_dump()
    assert (params["regularization"]["epochs"], params["regularization"]["ema_decay"], params["bn_samples"]) == (
        3,
        0.9,
        64,
    )


def test_a_child_that_gives_only_the_id_of_a_stage_may_use_old_names(tmp_path: Path) -> None:
    _write(tmp_path, HEAD + "stages: [{id: slim, use: prune.channels, min_keep: 0.3}]\n", "base.yaml")
    recipe, renamed = _quietly(_write(tmp_path, "extends: base.yaml\nstages: [{id: slim, at_least: 0.4}]\n"))
    assert recipe.stages[0].params.model_dump()["min_keep"] == 0.4
    assert renamed == ["at_least -> min_keep"]


@pytest.mark.parametrize(
    ("option", "renamed", "at", "value"),
    [
        ("target.batch=7", ["batch -> batch_size"], ("target", "batch_size"), 7),
        ("stages[0].sparse.epochs=7", ["sparse -> regularization"], ("stages", 0, "regularization", "epochs"), 7),
        ("stages.prune.channels.at_least=0.5", ["at_least -> min_keep"], ("stages", 0, "min_keep"), 0.5),
        ("stages[0].sparse={average: 0.5}", ["sparse -> regularization", "average -> ema_decay"], ("stages", 0, "regularization", "ema_decay"), 0.5),
        ("export[0].storage=packed", ["packed -> compressed"], ("export", 0, "storage"), "compressed"),
    ],
)  # fmt: skip
def test_set_takes_old_names(
    tmp_path: Path, option: str, renamed: list[str], at: tuple[str | int, ...], value: object
) -> None:
    recipe, told = _quietly(_write(tmp_path, NEW), sets=(option,))
    found: object = recipe.resolved
    for step in at:
        found = found[step]  # type: ignore[index]
    assert (found, told) == (value, renamed)


def test_unset_takes_old_names(tmp_path: Path) -> None:
    recipe, renamed = _quietly(_write(tmp_path, NEW), unsets=("stages[0].sparse",))
    assert recipe.stages[0].params.model_dump()["regularization"] is None
    assert renamed == ["sparse -> regularization"]


def test_old_names_in_overrides_count(tmp_path: Path) -> None:
    stage = "stages: [{use: factorize.svd, rank: 4, conv: whole, overrides: [{match: '*', rank: whole}]}]\n"
    recipe, renamed = _quietly(_write(tmp_path, HEAD + stage))
    params = recipe.stages[0].params.model_dump()
    assert (params["conv"], params["overrides"][0]["rank"]) == ("skip", "full")
    assert renamed == ["whole -> skip", "whole -> full"]


def test_a_value_from_a_variable_may_be_an_old_one(tmp_path: Path) -> None:
    text = HEAD + 'vars: {how: packed}\nexport: [{backend: onnxruntime, storage: "${how}"}]\n'
    recipe, renamed = _quietly(_write(tmp_path, text))
    assert recipe.export[0].params.model_dump()["storage"] == "compressed"
    assert renamed == ["packed -> compressed"]


def test_a_recipe_as_a_mapping_may_use_old_names() -> None:
    content = yaml.safe_load(OLD)
    with pytest.warns(RenamedWarning, match="`reestimate` is called `bn_samples` now"):
        recipe = compressctl.load_recipe(content, overrides={"stages.prune.channels.reestimate": 32})
    assert recipe.stages[0].params.model_dump()["bn_samples"] == 32


def test_an_old_name_beside_the_new_one_is_an_error_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        load(_write(tmp_path, HEAD + "target: {batch_size: 1, batch: 2}\n"))
    assert "target.batch: `batch` is called `batch_size` now, which is here too" in str(raised.value)
    assert raised.value.problems[0].origin.column == 25


def test_an_old_name_where_it_never_was_is_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown key"):
        load(_write(tmp_path, HEAD + "stages: [{use: quantize.static, blocklist: [a]}]\n"))


def test_validate_tells_programs_of_old_names_as_warnings(tmp_path: Path) -> None:
    path = _write(tmp_path, HEAD + "target: {batch: 2}\n")
    done = CliRunner().invoke(app, ["validate", str(path), "--format", "json"])
    (found,) = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (found["level"], found["line"], found["column"], found["path"]) == ("warning", 4, 10, "target.batch")
    done = CliRunner().invoke(app, ["validate", str(path), "--format", "github"])
    assert done.stdout.startswith(f"::warning file={path},line=4,col=10::target.batch:")


def test_migrate_writes_new_names_and_changes_nothing_else(tmp_path: Path) -> None:
    path = _write(tmp_path, OLD)
    path.chmod(0o640)
    done = CliRunner().invoke(app, ["migrate", str(path)])
    assert (done.exit_code, path.read_text()) == (0, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def test_migrate_checks_and_shows_without_writing(tmp_path: Path) -> None:
    path = _write(tmp_path, OLD)
    checked = CliRunner().invoke(app, ["migrate", str(path), "--check"])
    shown = CliRunner().invoke(app, ["migrate", str(path), "--diff"])
    assert (checked.exit_code, shown.exit_code, path.read_text()) == (1, 0, OLD)
    assert "-target: {batch: 2}            # samples" in shown.stdout
    assert "+target: {batch_size: 2}       # samples" in shown.stdout
    assert CliRunner().invoke(app, ["migrate", str(_write(tmp_path, NEW)), "--check"]).exit_code == 0


def test_migrate_leaves_what_a_recipe_extends(tmp_path: Path) -> None:
    parent = _write(tmp_path, OLD, "old.yaml")
    child = _write(tmp_path, "extends: old.yaml\ntarget: {batch: 1}\n")
    CliRunner().invoke(app, ["migrate", str(child)])
    assert child.read_text() == "extends: old.yaml\ntarget: {batch_size: 1}\n"
    assert parent.read_text() == OLD


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_migrate_keeps_line_ends_and_byte_order_marks(tmp_path: Path, end: str, mark: str) -> None:
    path = _write(tmp_path, mark + OLD.replace("\n", end))
    CliRunner().invoke(app, ["migrate", str(path)])
    assert path.read_bytes().decode() == mark + NEW.replace("\n", end)


def test_migrate_says_what_it_cannot_spell(tmp_path: Path) -> None:
    path = _write(tmp_path, HEAD + 'export: [{backend: onnxruntime, storage: "p\\u0061cked"}]\n')
    done = CliRunner().invoke(app, ["migrate", str(path)])
    assert done.exit_code == 2
    assert "write `compressed` instead" in done.output


def test_migrate_reads_only_recipes(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["migrate", str(tmp_path / "none.yaml")]).exit_code == 2


@given(st.text("é# 'x\U0001f600", max_size=8))
def test_what_stands_before_an_old_name_does_not_move_it(comment: str) -> None:
    text = f"# {comment}#\n{OLD}"
    found: list[Renamed] = []
    root = parse(Source("recipe.yaml", text))
    assert root is not None
    with_new_names(root, found)
    assert rewritten(text, found) == f"# {comment}#\n{NEW}"


@pytest.mark.parametrize("rename", RENAMES, ids=lambda rename: f"{rename.where} {rename.old}")
def test_the_changelog_names_every_rename(rename: Rename) -> None:
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    old = rename.old if rename.value is None else f"{rename.old}: {rename.value}"
    new = rename.new if rename.value is None else f"{rename.old}: {rename.new}"
    assert f"`{old}` -> `{new}`" in changelog
