"""A folder never shows one model's file as another one's result."""

from pathlib import Path

import pytest

from compressctl.search.handed_files import RUN, Handed, earlier, note, take_back

KEPT = ("journal", "search.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    (tmp_path / RUN).mkdir()
    (tmp_path / "recipes").mkdir()
    for name in ("model.onnx", "model.onnx.data", "recipe.yaml", "recipe.pinned.yaml", "search.json"):
        (tmp_path / name).write_text(name)
    note(tmp_path, "subject", ("model.onnx", "model.onnx.data"))
    return tmp_path


def test_what_was_handed_over_is_known_whatever_became_of_the_report(folder: Path) -> None:
    (folder / "search.json").write_text("damaged")
    assert earlier(folder) == Handed("subject", ("model.onnx", "model.onnx.data"))


def test_it_is_taken_back_with_its_recipes_and_with_its_run_where_that_is_another_models(folder: Path) -> None:
    take_back(folder, earlier(folder))
    assert {path.name for path in folder.iterdir()} == {*KEPT, RUN, "recipes"}
    take_back(folder, earlier(folder), with_run=True)
    assert {path.name for path in folder.iterdir()} == {*KEPT}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"subject": "a", "files": 3}'])
def test_a_damaged_note_is_none(folder: Path, text: str) -> None:
    (folder / "journal" / "handed-over").write_text(text)
    assert earlier(folder) is None


def test_a_note_names_files_of_its_folder_alone(folder: Path) -> None:
    note(folder, "subject", ("model.onnx", "../elsewhere", "journal/x"))
    found = earlier(folder)
    assert found is not None
    assert found.files == ("model.onnx",)
