"""What a technique hands back, held to what its report can say: another package's code may return anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel, TorchModel
from compressctl.core.technique import StageResult


def checked(result: object) -> StageResult:
    """The result with facts as JSON holds them: numbers and lists for NumPy's scalars and arrays, words for keys.

    Raises StageError for what is no StageResult, and for a fact that JSON cannot hold.
    """
    if not isinstance(result, StageResult):
        raise StageError(f"the technique returned {_named(result)}, not a StageResult")
    if not isinstance(result.model, TorchModel | OnnxModel):
        words = f"the technique returned a StageResult of {_named(result.model)}, not of a model"
        raise StageError(words, hint="hand over a TorchModel or an OnnxModel: dataclasses.replace(model, body=...)")
    pinned = result.pinned if result.pinned is None else _as_json(result.pinned, "pinned")
    return replace(result, facts=_as_json(result.facts, "facts"), pinned=pinned)


def _as_json(values: object, what: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise StageError(f"the technique's {what} are {_named(values)}, not a mapping of names to values")
    found: dict[str, Any] = {}
    for name, value in values.items():
        try:
            found |= to_jsonable_python({name: value}, fallback=_from_numpy)
        except (TypeError, ValueError) as error:
            words = f"JSON cannot hold the technique's {what}[{name!r}]: {error}"
            raise StageError(words, hint="facts are numbers, words, lists and mappings of these") from error
    return found


def _from_numpy(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"it holds {_named(value)}")


def _named(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
