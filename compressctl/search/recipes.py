"""The recipes of a search as files: readable ones, and one with everything written out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressctl.core.secrets import without_secrets
from compressctl.core.tasks import TASKS
from compressctl.core.whole_files import write_whole
from compressctl.recipe.as_yaml import as_yaml
from compressctl.recipe.schema import Recipe, TargetSection
from compressctl.search.paths import moved
from compressctl.search.space import Candidate
from compressctl.search.subject import Subject

READABLE, PINNED = "recipe.yaml", "recipe.pinned.yaml"
FOLDER = "recipes"


def write_point(folder: Path, subject: Subject, candidate: Candidate) -> str:
    """Of one point, without a budget. Returns its path from the search's folder. Raises MachineError, OSError."""
    (folder / FOLDER).mkdir(exist_ok=True)
    name = f"{FOLDER}/{candidate.name}.yaml"
    content = moved(_readable(subject, candidate, None), folder, folder / FOLDER)
    write_whole(folder / name, [_text(content, f"{candidate.words}.").encode()])
    return name


def write_chosen(folder: Path, subject: Subject, candidate: Candidate, budget: Mapping[str, Any]) -> None:
    """recipe.yaml, as somebody would write it: the same stages, without what a clock chose for them."""
    head = (
        f"What `compressctl auto` chose: {candidate.words}. `compressctl apply {READABLE}` makes and measures it again; what a clock chooses "
        f"while a file is written, as the form of its kernels, it chooses anew: {PINNED} makes the same file."
    )
    write_whole(folder / READABLE, [_text(_readable(subject, candidate, budget), head).encode()])


def write_pinned(folder: Path, recipe: Recipe, pinned: Path) -> None:
    """recipe.pinned.yaml: what its stages chose where they chose something, and every default. pinned: as a run writes it."""
    if pinned.is_file():
        from compressctl.core.regular_files import read_regular

        text = read_regular(pinned)
    else:
        text = _text(recipe.resolved, "Every value of the recipe, defaults too.").encode()
    write_whole(folder / PINNED, [text])


def _text(content: Mapping[str, Any], head: str) -> str:
    return f"# {' '.join(head.split())}\n{as_yaml(without_secrets(content))}"


def _readable(subject: Subject, candidate: Candidate, budget: Mapping[str, Any] | None) -> dict[str, Any]:
    """Without what a recipe need not say."""
    content = dict(subject.content)
    task = TASKS[content["task"]]
    if content.get("metric") == task.metric:
        content.pop("metric", None)
    defaults = TargetSection().model_dump(mode="json")
    target = {key: value for key, value in content.pop("target").items() if value != defaults[key] or key == "backend"}
    content = {key: value for key, value in content.items() if value not in (None, False)}
    if "data" in content:
        content["data"] = {
            key: value for key, value in content["data"].items() if value is not None or key in ("labels",)
        }
    export = subject.export(compressed=candidate.compressed)
    made = {
        **content,
        "target": target,
        "stages": subject.stages(candidate.stages),
        "export": [export if len(export) > 1 else export["backend"]],
    }
    return made if not budget else {**made, "budget": dict(budget)}
