"""A resolved recipe, or what holds one, as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from compressctl.core.legible import legible


def as_yaml(value: Mapping[str, Any]) -> str:
    """Letters of any script as they are, unless some of the text would not be legible: then all of them as escapes."""
    text = str(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True))
    return text if legible(text) == text else str(yaml.safe_dump(dict(value), sort_keys=False))
