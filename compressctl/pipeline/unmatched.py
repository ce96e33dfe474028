"""A stage carried out where patterns of its recipe may fit nothing, as those of a recipe for many models."""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel

from compressctl.core.patterns import Override, UnmatchedPatternError
from compressctl.core.registry import load
from compressctl.core.technique import RunContext, StageResult, TechniqueSpec
from compressctl.recipe.schema import Unmatched


def carried_out(
    spec: TechniqueSpec, model: Any, params: BaseModel, run: RunContext, unmatched: Unmatched
) -> tuple[StageResult, tuple[str, ...]]:
    """The stage's result, and what was left out of its params since it fits nothing in the model; nothing ever is where that is an error.

    The technique begins again without such a pattern, which it looks for before it works. Raises what the technique raises.
    """
    left_out: list[str] = []
    while True:
        try:
            return cast("StageResult", load(spec.implementation)(model, params, run)), tuple(left_out)
        except UnmatchedPatternError as error:
            rest = _without(params, error.pattern) if unmatched == "note" else None
            if rest is None:
                raise
            run.events.warn(f"{error.message}, and is left out")
            left_out.append(error.pattern)
            params = rest


def _without(params: BaseModel, pattern: str) -> BaseModel | None:
    """None where the pattern stands in no list: it is then what the stage is about."""
    changed: dict[str, Any] = {}
    for name in type(params).model_fields:
        value = getattr(params, name)
        if isinstance(value, tuple):
            kept = tuple(one for one in value if _pattern_of(one) != pattern)
            changed |= {name: kept} if len(kept) < len(value) else {}
        elif isinstance(value, BaseModel) and (inner := _without(value, pattern)) is not None:
            changed[name] = inner
    return params.model_copy(update=changed) if changed else None


def _pattern_of(one: object) -> object:
    return one.match if isinstance(one, Override) else one
