"""The manifest's JSON schema, for editors: made from the models that check it."""

from __future__ import annotations

from typing import Any

from compressctl.zoo.schema import PLACES, VERSION, Manifest


def json_schema() -> dict[str, Any]:
    """Draft 2020-12. Values may also be `${variables}`."""
    found = Manifest.model_json_schema()
    found["$defs"]["ModelEntry"]["oneOf"] = [{"required": [place]} for place in PLACES]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "compressctl zoo, version 1",
        "properties": {
            "zoo": {"const": VERSION},
            "extends": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "vars": {"type": "object"},
            **found["properties"],
        },
        "required": ["zoo", *found["required"]],
    }
