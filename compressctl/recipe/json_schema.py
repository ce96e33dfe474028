"""The recipe's JSON schema, for editors: made from the same models that check it, those of other packages included."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from compressctl.core.backend import backends
from compressctl.core.registry import Registry
from compressctl.core.source import SplitSizes, datasets, decoders, metrics, model_sources
from compressctl.core.tasks import PairLoss, Task
from compressctl.core.technique import techniques
from compressctl.recipe.schema import (
    IF_SLOWER,
    VERSION,
    BudgetSection,
    FunctionSection,
    GateSection,
    HeadWeight,
    IfSlower,
    MetricSection,
    PipelineSection,
    SearchSection,
    TargetSection,
    Unmatched,
)


def schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12. Values may also be `${variables}`."""
    definitions: dict[str, Any] = {}
    gate = _object(GateSection, definitions)
    stage_keys = {
        "id": {"type": "string"},
        "enabled": {"type": "boolean", "default": True},
        "gate": gate,
        "if_slower": {"enum": list(get_args(IfSlower)), "description": IF_SLOWER},
    }
    stages = [
        _variant(spec.params, "use", name, spec.summary, definitions, stage_keys)
        for name, spec in techniques.usable()[0].items()
    ]
    judged = {
        "task": {"enum": list(get_args(Task)), "default": "classification"},
        "metric": {"anyOf": [{"enum": metrics.names()}, _FUNCTION, _object(MetricSection, definitions)]},
        "loss": {"anyOf": [{"enum": list(get_args(PairLoss))}, _FUNCTION, _object(FunctionSection, definitions)]},
        "decode": {"anyOf": [{"enum": decoders.names()}, _FUNCTION, *_decoders(definitions)]},
    }
    split_keys = _object(SplitSizes, definitions)["properties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "compressctl recipe, version 1",
        "type": "object",
        "additionalProperties": False,
        "required": ["recipe"],
        "anyOf": [
            {"required": ["model"]},
            {"properties": {"pipeline": {"required": ["stages"]}}, "required": ["pipeline"]},
        ],
        "properties": {
            "recipe": {"const": VERSION},
            "name": {"type": "string", "description": "default: the file's name"},
            "extends": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "vars": {"type": "object"},
            "seed": {"type": "integer", "default": 0},
            **judged,
            "heads": {"type": "object", "additionalProperties": _head(judged)},
            "model": {"oneOf": _sources(model_sources, definitions, {})},
            "pipeline": _pipeline(definitions, stages),
            "data": {"oneOf": _sources(datasets, definitions, split_keys)},
            "target": _object(TargetSection, definitions),
            "stages": {"type": "array", "items": {"oneOf": stages}},
            "search": _object(SearchSection, definitions),
            "export": {"type": "array", "items": {"anyOf": [{"enum": backends.names()}, *_exports(definitions)]}},
            "pack": {
                "type": "boolean",
                "default": False,
                "description": "write each exported ONNX file packed for transport too, decode it again and compare",
            },
            "unmatched": {
                "enum": list(get_args(Unmatched)),
                "default": "error",
                "description": "what becomes of a pattern in overrides and lists of a stage that fits nothing in the model: note, for a recipe of many models, leaves it out",
            },
            "budget": _object(BudgetSection, definitions),
        },
        "$defs": definitions,
    }


def _head(judged: dict[str, Any]) -> dict[str, Any]:
    """How one of several outputs is judged and trained."""
    output = {"type": "string", "description": "the output's name; default: the head's"}
    weight = _object(HeadWeight, {})["properties"]["weight"]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {**judged, "output": output, "weight": weight},
    }


def _decoders(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        _variant(spec.params, "use", name, spec.summary, definitions, {}) for name, spec in decoders.usable()[0].items()
    ]


def _pipeline(definitions: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, Any]:
    found = _object(PipelineSection, definitions)
    others = {"type": "object", "additionalProperties": {"oneOf": _sources(model_sources, definitions, {})}}
    each = {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"oneOf": stages}},
        "description": "instead of `model`, `role` and `stages`: by name of `models`, the stages of each file that is compressed",
    }
    required = [name for name in found["required"] if name != "role"]
    return {**found, "properties": {**found["properties"], "models": others, "stages": each}, "required": required}


_FUNCTION = {"type": "string", "pattern": ":", "description": "a function of your own: file.py:name"}


def _exports(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        _variant(spec.params, "backend", name, spec.summary, definitions, {})
        for name, spec in backends.usable()[0].items()
    ]


def _sources(registry: Registry[Any], definitions: dict[str, Any], extra: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        _variant(spec.params, "source", name, spec.summary, definitions, extra)
        for name, spec in registry.usable()[0].items()
    ]


def _variant(
    params: type[BaseModel], key: str, name: str, summary: str, definitions: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    found = _object(params, definitions)
    return {
        **found,
        "description": summary,
        "properties": {key: {"const": name}, **extra, **found.get("properties", {})},
        "required": [key, *found.get("required", [])],
    }


def _object(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    found = model.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(found.pop("$defs", {}))
    return found
