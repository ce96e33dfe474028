"""What a run brought, whole or in part; the report is made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compressctl.core.errors import CompressctlError
from compressctl.core.model import StageRecord
from compressctl.measure.results import BackendResult, BudgetCheck, Parity
from compressctl.recipe.schema import Recipe

Status = Literal["done", "budget missed", "failed", "interrupted", "time limit"]


@dataclass(frozen=True)
class RunResult:
    """error: what stopped it, None when nothing did. not_done: the stages and deliverables that it did not come to. environment: machine and package facts, ready for JSON."""

    recipe: Recipe
    folder: Path
    status: Status
    started: float
    seconds: float
    environment: Mapping[str, Any]
    stages: tuple[StageRecord, ...] = ()
    not_done: tuple[str, ...] = ()
    backends: tuple[BackendResult, ...] = ()
    parity: tuple[Parity, ...] = ()
    budget: tuple[BudgetCheck, ...] = ()
    warnings: tuple[str, ...] = ()
    error: CompressctlError | None = None
