"""What a run brought, whole or in part; the report is made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from compressctl.core.errors import CompressctlError
from compressctl.core.model import StageRecord
from compressctl.measure.results import BudgetCheck, Measurement, Noise, Parity
from compressctl.recipe.schema import Recipe

Status = Literal["done", "budget missed", "failed", "interrupted"]


@dataclass(frozen=True)
class BackendResult:
    """One export target: the fp32 model and the compressed one on the same runtime.

    between: what stages before the last gave, by the stage's id, where stages are measured.
    """

    backend: str
    version: str | None
    baseline: Measurement
    compressed: Measurement
    noise: Noise | None
    between: tuple[tuple[str, Measurement], ...] = ()


@dataclass(frozen=True)
class RunResult:
    """error: what stopped it, None when nothing did. environment: machine and package facts, ready for JSON."""

    recipe: Recipe
    folder: Path
    status: Status
    started: float
    seconds: float
    environment: Mapping[str, Any]
    stages: tuple[StageRecord, ...] = ()
    backends: tuple[BackendResult, ...] = ()
    parity: tuple[Parity, ...] = ()
    budget: tuple[BudgetCheck, ...] = ()
    warnings: tuple[str, ...] = ()
    error: CompressctlError | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def parity_of(record: StageRecord) -> Parity:
    """How far lowering moved the outputs, from its record."""
    return Parity(record.facts["between"], record.facts["max_abs_difference"], record.facts["samples"])
