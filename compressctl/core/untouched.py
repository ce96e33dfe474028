"""The parameters that a stage left as they were, by kind of layer, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KEY = "untouched"
"""Where a stage's facts hold them."""

NOTABLE = 0.05
"""Share of a model's parameters from which the report says it."""

MOST = 0.5
"""Share from which it is a warning: the stage works on the smaller part of the model."""

_NAMED = 3


def words(facts: Mapping[str, Any]) -> str | None:
    """As in "94.3% of the parameters untouched: LSTM r (94.3%): ..."; None for a stage that left nothing of note.

    facts: of a stage.
    """
    found = facts.get(KEY)
    if not found or found["share"] < NOTABLE:
        return None
    kinds = sorted(found["layers"], key=lambda entry: -entry["parameters"])
    told = [_kind(entry) for entry in kinds if entry["share"] >= NOTABLE / 5] or [_kind(kinds[0])]
    return f"{found['share']:.1%} of the parameters untouched: {'; '.join(told)}"


def _kind(entry: Mapping[str, Any]) -> str:
    names: Sequence[str] = entry["layers"]
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"{entry['kind']} {shown} ({entry['share']:.1%}): {entry['reason']}"
