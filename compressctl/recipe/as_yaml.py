"""A resolved recipe, or what holds one, as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from compressctl.core.legible import legible


class _Plain(yaml.SafeDumper):
    """Without anchors, which recipes do not take: what stands in two places is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(value: Mapping[str, Any]) -> str:
    """Letters of any script as they are, unless some of the text would not be legible: then all of them as escapes."""
    text = _dumped(value, allow_unicode=True)
    return text if legible(text) == text else _dumped(value, allow_unicode=False)


def _dumped(value: Mapping[str, Any], *, allow_unicode: bool) -> str:
    return str(yaml.dump(dict(value), Dumper=_Plain, sort_keys=False, allow_unicode=allow_unicode))
