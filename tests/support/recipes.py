"""Recipes for what is read back as a run would."""

from pathlib import Path

from compressctl.recipe.loader import load
from compressctl.recipe.schema import Recipe


def recipe_of(folder: Path, stage: str = "{use: cast}") -> Recipe:
    """Of one stage, in a folder."""
    head = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n"
    (folder / "recipe.yaml").write_text(f"{head}stages: [{stage}]\n")
    return load(folder / "recipe.yaml")
