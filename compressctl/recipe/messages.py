"""Pydantic's findings in plain words, each at its place in the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from compressctl.core.errors import Problem
from compressctl.core.nearest import nearest, suggestion
from compressctl.recipe.nodes import Node, Step, find, join, shown


def problems_of(error: ValidationError, node: Node, at: tuple[Step, ...], kind: type[BaseModel]) -> list[Problem]:
    """One problem per value: several members of a union that all refuse it are one finding."""
    found: dict[str, Problem] = {}
    entries = error.errors()
    for entry in entries:
        if entry["type"] == "too_short" and any(_is_inside(other["loc"], entry["loc"]) for other in entries):
            continue  # pydantic counts those that are right, and says of each other what is wrong
        steps = _steps_in(node, entry["loc"])
        here = find(node, steps) or node
        path = join("", *at, *steps)
        message, hint = _words(entry, here, steps, kind)
        origin = (here.key or here.origin) if entry["type"] == "extra_forbidden" else here.origin
        if path in found:
            found[path] = Problem(_either(found[path].message, message), path, found[path].hint or hint, origin)
        else:
            found[path] = Problem(message, path, hint, origin)
    # A member of a union that takes mappings and finds something wrong inside this one is the one that was meant.
    inside = {path for path in found if any(other.startswith((f"{path}.", f"{path}[")) for other in found)}
    return [problem for path, problem in found.items() if path not in inside or _REFUSED not in problem.message]


def _is_inside(location: Sequence[Any], of: Sequence[Any]) -> bool:
    return len(location) > len(of) and location[: len(of)] == of


def _steps_in(node: Node, location: Sequence[Any]) -> list[Step]:
    """The part of pydantic's location that is in the recipe; names of union members and of missing keys are not."""
    steps: list[Step] = []
    for step in location:
        if find(node, [*steps, step]) is not None:
            steps.append(step)
    return steps


def _words(entry: Any, node: Node, steps: list[Step], kind: type[BaseModel]) -> tuple[str, str | None]:
    context = entry.get("ctx") or {}
    value = shown(node.value)
    match entry["type"]:
        case "missing":
            return f"`{entry['loc'][-1]}` is missing", None
        case "extra_forbidden":
            known = list(_model_at(kind, steps[:-1]).model_fields)
            return "unknown key", suggestion(str(steps[-1]) if steps else "", known)
        case "literal_error":
            expected = str(context.get("expected", ""))
            options = [option.strip(" '") for option in expected.replace(" or ", ",").split(",")]
            close = nearest(str(node.value), options)
            return f"this is {value}, not one of {', '.join(options)}", f"did you mean {close}?" if close else None
        case "value_error":
            return str(context.get("error", entry["msg"])), None
        case "greater_than_equal":
            return f"{value} is less than {context['ge']:g}", None
        case "greater_than":
            return f"{value} is not above {context['gt']:g}", None
        case "less_than_equal":
            return f"{value} is more than {context['le']:g}", None
        case "less_than":
            return f"{value} is not below {context['lt']:g}", None
        case "string_pattern_mismatch":
            return f"{value} is not of the form {context['pattern']}", None
        case "string_too_short" | "too_short":
            return "this is empty", None
        case other:
            wanted = next((words for start, words in _TYPES if other.startswith(start)), None)
            return (f"this is {value}, not {wanted}" if wanted else f"{entry['msg']} (this is {value})"), None


def _model_at(kind: type[BaseModel], steps: Sequence[Step]) -> type[BaseModel]:
    """The model that describes the mapping at the end of the steps."""
    for step in steps:
        if isinstance(step, str) and step in kind.model_fields:
            kind = _model_in(kind.model_fields[step].annotation) or kind
    return kind


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model in an annotation such as `tuple[Override, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _either(first: str, second: str) -> str:
    """Two refusals of one value by the members of a union."""
    marker = _REFUSED
    if marker in first and marker in second and second.split(marker)[1] not in first:
        return f"{first} or {second.split(marker, 1)[1]}"
    # A member that did not refuse the type is the one that was meant.
    return second if marker in first and marker not in second else first


_REFUSED = ", not "
"""In what is said of a value of another type."""

_TYPES = (
    ("int", "a whole number"),
    ("float", "a number"),
    ("finite_number", "a finite number"),
    ("bool", "true or false"),
    ("string", "text"),
    ("list", "a list"),
    ("tuple", "a list"),
    ("dict", "a mapping"),
    ("model", "a mapping"),
    ("none", "nothing"),
)
