"""From a manifest's file to a Manifest: everything that is wrong at once, each with its place, as for recipes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from compressctl.core.errors import Origin, Problem, RecipeError
from compressctl.recipe.compose import compose
from compressctl.recipe.messages import problems_of
from compressctl.recipe.nodes import Node, plain, shown
from compressctl.recipe.variables import escaped
from compressctl.zoo.schema import VERSION, Manifest


def load_manifest(path: Path, sets: Sequence[str] = (), unsets: Sequence[str] = ()) -> Manifest:
    """sets, unsets: `path=value` and `path`, as on the command line. Raises RecipeError with every problem that was found."""
    root = compose(path, sets, unsets).root
    problems = list(_version(root))
    body = root.without("zoo", "vars")
    try:
        # As JSON and strictly: a list may be a tuple, but `no` is not false and "3" is not 3.
        manifest = Manifest.model_validate_json(
            json.dumps({key: plain(_for_recipes(node)) for key, node in body.entries.items()}), strict=True
        )
    except ValidationError as error:
        problems += problems_of(error, body, (), Manifest)
    name = body.child("name")
    if name is not None and name.reference is not None:
        problems.append(Problem("a name from the environment would be told to others", "name", origin=name.origin))
    if problems:
        raise RecipeError(sorted(problems, key=_place))
    return manifest if manifest.name else manifest.model_copy(update={"name": _name(path)})


_RECIPES_OWN = ("set", "budget", "model")


def _for_recipes(node: Node, key: str = "") -> Node:
    """What is put into recipes keeps its references to the environment: there it is read once more, and told to nobody."""
    if isinstance(node.value, dict):
        inner = {
            name: _for_recipes(child, key or (name if name in _RECIPES_OWN else ""))
            for name, child in node.value.items()
        }
        return node.with_value(inner)
    if isinstance(node.value, list):
        return node.with_value([_for_recipes(child, key) for child in node.value])
    if not key or not isinstance(node.value, str):
        return node
    return node.with_value(node.reference if node.reference is not None else escaped(node.value))


def _version(root: Node) -> list[Problem]:
    node = root.child("zoo")
    if node is None:
        is_recipe = root.child("recipe") is not None
        what = "this is a recipe, a manifest names models and recipes" if is_recipe else "`zoo` is missing"
        hint = "`compressctl apply` runs a recipe" if is_recipe else f"start with `zoo: {VERSION}`"
        return [Problem(what, "zoo", hint, root.origin)]
    if node.value != VERSION:
        return [
            Problem(f"not a version of manifests: {shown(node.value)}", "zoo", f"write `zoo: {VERSION}`", node.origin)
        ]
    return []


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:100] or "zoo"


def _place(problem: Problem) -> tuple[str, int, int]:
    origin = problem.origin or Origin("")
    return origin.source, origin.line or 0, origin.column or 0
