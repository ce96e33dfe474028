"""Fields of a recipe in words: types and defaults as its author would say them."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def shown_default(info: Any) -> str:
    """The default of a pydantic field as a recipe would have it."""
    value = info.get_default(call_default_factory=True)
    if value in (None, (), {}, []):
        return "none"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def type_name(annotation: Any) -> str:
    """As a recipe's author says it: int, one of these words, a mapping of its own keys."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(option) for option in inner)
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (Union, UnionType):
        return " | ".join("none" if option is NoneType else type_name(option) for option in inner)
    if models_in(annotation) and origin is None:
        return "keys"
    if origin is not None:
        parts = ["..." if option is Ellipsis else type_name(option) for option in inner]
        kind = "list" if origin is tuple else origin.__name__
        return f"{kind}[{', '.join(parts)}]"
    return getattr(annotation, "__name__", None) or str(annotation)


def literals_in(annotation: Any) -> list[Any]:
    """The words and numbers that an annotation lists: what its value may be."""
    inner = get_args(annotation)
    return list(inner) if get_origin(annotation) is Literal else [one for part in inner for one in literals_in(part)]


def models_in(annotation: Any) -> list[Any]:
    """The pydantic models in an annotation: mappings with keys of their own."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]
