"""How much of a run is measured."""

from __future__ import annotations

from enum import StrEnum


class MeasureLevel(StrEnum):
    """stages: each stage's output too. final: the exported files alone. quick: those, briefly, with wide intervals."""

    QUICK = "quick"
    FINAL = "final"
    STAGES = "stages"
