"""What a recipe does not say about images, taken from the model, which knows how it was trained to see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from compressctl.core.errors import Origin
from compressctl.core.registry import load
from compressctl.core.source import ImageSteps, TakesImageSteps, model_sources
from compressctl.recipe.nodes import Node
from compressctl.recipe.schema import ModelSection


def with_model_steps(
    data: Node, params: type[BaseModel], model: ModelSection | None, base: Path
) -> tuple[Node, ImageSteps | None]:
    """The data section with the model's values for keys that are open, and what was taken; both as they were where there is nothing to take.

    Nothing heavy is imported. Raises UsageError where the model's file is damaged.
    """
    hook = model_sources.get(model.source).images if model is not None else ""
    if model is None or not hook or not isinstance(params, TakesImageSteps):
        return data, None
    keys = params.open_steps(data.entries.keys())
    found: ImageSteps | None = load(hook)(model.params, base) if keys else None
    if found is None:
        return data, None
    taken = {key: value for key, value in found.values.items() if key in keys}
    undone = {words: key for words, key in found.undone.items() if key in keys}
    if not taken and not undone:
        return data, None
    origin = Origin(found.file)
    entries = {key: _node(value, origin) for key, value in taken.items()}
    return data.with_value({**data.entries, **entries}), replace(found, values=taken, undone=undone)


def image_steps_in_words(steps: ImageSteps) -> Iterator[str]:
    """What was taken from where, and what was not."""
    if steps.values:
        yield f"images are prepared as {steps.file} says: {', '.join(f'{key} {_shown(value)}' for key, value in steps.values.items())}"
    if steps.undone:
        yield f"{steps.file} asks for what is not done to images here: {', '.join(steps.undone)}"


def _node(value: Any, origin: Origin) -> Node:
    return Node([_node(one, origin) for one in value] if isinstance(value, list) else value, origin)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
