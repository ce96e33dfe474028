"""Recipes that have bundles scored on tasks: what is refused with its line, without lm-eval being there."""

import sys
from pathlib import Path

import pytest

import compressctl
from compressctl.core.errors import RecipeError
from compressctl.recipe.loader import load

RECIPE = """
recipe: compressctl/v1
task: language-model
model: {source: huggingface, path: model}
export:
  - {backend: onnxruntime, bundle: genai, lm_eval: {tasks: [arc_easy], include_path: tasks}}
budget: {bundle: {task_drop: {arc_easy/acc_norm: 0.02}}}
"""


def test_a_recipe_with_tasks_is_valid_and_imports_no_lm_eval(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    found = load(tmp_path / "r.yaml")
    assert found.export[0].params.lm_eval.tasks == ("arc_easy",)  # type: ignore[attr-defined]
    assert "lm_eval" not in sys.modules


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bundle: genai, ", "", "lm_eval scores a bundle"),
        ("tasks: [arc_easy], ", "tasks: [], ", "export[0].lm_eval.tasks"),
        ("arc_easy/acc_norm", "hellaswag", "is not scored on hellaswag"),
        (", lm_eval: {tasks: [arc_easy], include_path: tasks}", "", "is scored on no task"),
        ("include_path", "include_paths", "include_path"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "r.yaml")
    assert said in str(caught.value)


def test_the_folder_of_tasks_is_listed_as_code(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("source: huggingface, path: model", "source: huggingface, path: ."))
    (tmp_path / "config.json").write_text("{}")
    found = compressctl.plan(tmp_path / "r.yaml")
    assert ("export[0].lm_eval.include_path", "tasks") in list(found.code)
