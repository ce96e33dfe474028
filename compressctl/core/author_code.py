"""Which values of a recipe name code of its author's that a run executes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel


class RunsCode:
    """Marks a field of params whose value names code: a function as "file.py:name" or "package.module:name", or a library."""


AuthorCode = Annotated[str, RunsCode()]
"""The only kind of text in a recipe that may end up being executed."""


def author_code(params: BaseModel, path: str) -> Iterator[tuple[str, str]]:
    """Every such value that is given, with its place in the recipe. path: that of the params."""
    for name, info in type(params).model_fields.items():
        is_code = any(isinstance(mark, RunsCode) for mark in (*info.metadata, *_marks(info.annotation)))
        yield from _in_value(getattr(params, name), f"{path}.{name}", is_code=is_code)


def author_factories(params: BaseModel) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every function that params name to make something, with its arguments."""
    if isinstance(named := getattr(params, "factory", None), str):
        yield named, getattr(params, "args", {})
    for name in type(params).model_fields:
        value = getattr(params, name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, BaseModel):
                yield from author_factories(part)


def _in_value(value: Any, path: str, *, is_code: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        yield from author_code(value, path)
    elif isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from _in_value(item, f"{path}[{position}]", is_code=is_code)
    elif isinstance(value, str) and is_code:
        yield path, value


def _marks(annotation: Any) -> Iterator[RunsCode]:
    for part in get_args(annotation):
        if isinstance(part, RunsCode):
            yield part
        yield from _marks(part)
