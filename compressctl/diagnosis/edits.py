"""Edits of a recipe: values under their paths, and the recipe that has them."""

from __future__ import annotations

import copy
import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressctl.core.secrets import without_secrets
from compressctl.core.whole_files import write_whole
from compressctl.diagnosis.document import Edit
from compressctl.recipe.as_yaml import as_yaml
from compressctl.recipe.loader import read
from compressctl.recipe.schema import Recipe, Stage

_LEAVES: Mapping[str, Mapping[str, Any]] = {
    **{use: {"weights": "float"} for use in ("quantize.static", "quantize.qat", "quantize.dynamic")},
    "quantize.weights": {"bits": "float"},
    "prune.unstructured": {"sparsity": 0.0},
    "prune.channels": {"keep": 1.0},
    "share.kmeans": {"clusters": 0},
    **{use: {"rank": "full"} for use in ("factorize.svd", "factorize.tucker", "factorize.cp")},
}
"""What an override of each technique says to leave a layer as it is."""


def change(stage: Stage, name: str, value: Any) -> Edit:
    """Of one of a stage's params."""
    return Edit(path=f"stages.{stage.id}.{name}", before=stage.params.model_dump(mode="json").get(name), after=value)


def left_alone(stage: Stage, layers: Iterable[str]) -> list[Edit]:
    """Overrides that keep layers as they are, behind those that the stage has; none where it has no such override."""
    leaves = _LEAVES.get(stage.use)
    if leaves is None:
        return []
    before = stage.params.model_dump(mode="json", exclude_defaults=True).get("overrides", [])
    # A name stands for itself, whatever characters it has.
    added = [{"match": glob.escape(layer), **leaves} for layer in dict.fromkeys(layers)]
    return [Edit(path=f"stages.{stage.id}.overrides", before=before, after=[*before, *added])] if added else []


def in_place_of(stage: Stage, use: str, **more: Any) -> Edit:
    """Another technique, under the stage's own id and gate. more: of its params."""
    before: dict[str, Any] = {"id": stage.id, "use": stage.use}
    if stage.gate is not None:
        before["gate"] = stage.gate.model_dump(mode="json", exclude_defaults=True)
    if stage.if_slower is not None:
        before["if_slower"] = stage.if_slower
    params = stage.params.model_dump(mode="json", exclude_defaults=True)
    return Edit(path=f"stages.{stage.id}", before={**before, **params}, after={**before, "use": use, **more})


def edited(recipe: Recipe, edits: Sequence[Edit]) -> Recipe:
    """The recipe with these values, read and checked. Raises RecipeError."""
    if not edits:
        return recipe
    text = as_yaml(_with(recipe, edits))
    made, _ = read(recipe.base / "recipe.yaml", text=text)
    return replace(made, base=recipe.base)


def write_edited(file: Path, recipe: Recipe) -> None:
    """The whole recipe, with its defaults, as a file."""
    head = (
        f"# Relative paths start from this file: put it into {recipe.base}.\n"
        if recipe.base != file.parent.resolve()
        else ""
    )
    write_whole(file, [(head + as_yaml(without_secrets(recipe.resolved))).encode()])


def _with(recipe: Recipe, edits: Sequence[Edit]) -> dict[str, Any]:
    resolved = copy.deepcopy(recipe.resolved)
    places = {stage.id: place for place, stage in enumerate(recipe.stages)}
    for edit in edits:
        section, _, name = edit.path.partition(".")
        if section == "stages":
            # An id may hold dots, a param does not.
            owner = max((stage for stage in places if name == stage or name.startswith(f"{stage}.")), key=len)
            steps: list[Any] = ["stages", places[owner], *filter(None, [name[len(owner) + 1 :]])]
        else:
            steps = [section, name]
        *path, last = steps
        inner: Any = resolved
        for step in path:
            inner = inner[step]
        inner[last] = edit.after
    return resolved
