"""The report as one document: everything shown anywhere is rendered from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from compressctl.measure.results import BackendResult, BudgetCheck, Parity, Result

SCHEMA_VERSION = "1.13"


class Stage(Result):
    """A stage that was applied. facts: what it found out, such as layers left in float or ranks chosen."""

    id: str
    use: str
    seconds: float
    cached: bool
    params: dict[str, Any]
    facts: dict[str, Any]


class Report(Result):
    schema_version: str = SCHEMA_VERSION
    name: str
    status: Literal["done", "budget missed", "failed", "interrupted", "time limit"]
    exit_code: int
    error: str | None
    summary: list[str] = Field(description="what came out, in sentences, the most important first")
    started: float = Field(description="seconds since the epoch")
    seconds: float
    metric: str | None
    metric_unit: str
    backends: tuple[BackendResult, ...]
    budget: tuple[BudgetCheck, ...]
    stages: tuple[Stage, ...]
    not_done: tuple[str, ...] = Field(
        (), description="the stages and deliverables that a run which was stopped did not come to"
    )
    parity: tuple[Parity, ...]
    warnings: tuple[str, ...]
    environment: dict[str, Any]
    recipe: dict[str, Any]
    recipe_file: str | None = Field(None, description="the recipe's path as it was named, relative where it lies below")


def json_schema() -> dict[str, Any]:
    """The schema of report.json (JSON Schema 2020-12). Fields are only ever added within one major version."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"compressctl report {SCHEMA_VERSION}",
        **Report.model_json_schema(mode="serialization"),
    }
