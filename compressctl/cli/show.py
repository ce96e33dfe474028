"""compressctl show: a recipe with everything filled in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from compressctl.cli.options import RecipePath, Sets, Unsets
from compressctl.core.source import ImageSteps
from compressctl.recipe.compose import compose
from compressctl.recipe.loader import load
from compressctl.recipe.nodes import Node, Step, find


def show(
    recipe: RecipePath,
    sets: Sets = None,
    unsets: Unsets = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say behind each value which line set it.")] = False,
) -> None:
    """Print a recipe with `extends`, `vars`, overrides and defaults filled in.

    \b
    Examples:
      compressctl show builtin:quickstart
      compressctl show model.yaml --set target.threads=2 --origin
    """
    loaded = load(recipe, sets or (), unsets or ())
    root = compose(recipe, sets or (), unsets or ()).root if origin else None
    for line, steps in _lines(loaded.resolved):
        print(f"{line}{_comment(root, steps, loaded.image_steps) if root is not None and steps is not None else ''}")


def _lines(value: Any, indent: str = "", steps: tuple[Step, ...] = ()) -> Iterator[tuple[str, tuple[Step, ...] | None]]:
    """YAML, a value a line, each with its path."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _entry(f"{indent}{key}:", child, indent, (*steps, key))
    elif isinstance(value, list) and value:
        for position, child in enumerate(value):
            if isinstance(child, dict) and child:
                first, *rest = list(_lines(child, indent + "  ", (*steps, position)))
                yield f"{indent}- {first[0].lstrip()}", first[1]
                yield from rest
            else:
                yield from _entry(f"{indent}-", child, indent, (*steps, position))


def _entry(
    head: str, value: Any, indent: str, steps: tuple[Step, ...]
) -> Iterator[tuple[str, tuple[Step, ...] | None]]:
    if isinstance(value, dict | list) and value:
        yield head, None
        yield from _lines(value, indent + "  ", steps)
    else:
        yield f"{head} {_scalar(value)}", steps


def _scalar(value: Any) -> str:
    """A value as YAML 1.2 reads it back."""
    import json

    if value is None or isinstance(value, bool | int | float) or value in ([], {}):
        return json.dumps(value)
    text = str(value)
    plain = text.replace("_", "").replace("-", "").replace(".", "").replace("/", "")
    return (
        text
        if plain.isalnum() and not plain[0].isdigit() and text.lower() not in _WORDS
        else json.dumps(text, ensure_ascii=False)
    )


_WORDS = {"true", "false", "null", "yes", "no", "on", "off"}


def _comment(root: Node, steps: tuple[Step, ...], model: ImageSteps | None) -> str:
    node = find(root, list(steps))
    if model is not None and steps[:1] == ("data",) and len(steps) > 1 and steps[1] in model.values:
        return f"  # {model.file}"
    return f"  # {node.origin}" if node is not None else "  # default"
