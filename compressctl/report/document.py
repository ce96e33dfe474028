"""The report as one document: everything shown anywhere is rendered from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from compressctl.core.errors import ExitCode
from compressctl.core.source import MetricSpec, metrics
from compressctl.measure.results import Behaviour, BudgetCheck, Measurement
from compressctl.pipeline.result import BackendResult, RunResult

SCHEMA_VERSION = "1.1"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpeedPart(Part):
    ratio: float = Field(description="baseline's median latency over this one's")
    low: float = Field(description="lower end of the 95 % bootstrap interval")
    high: float
    verdict: Literal["faster", "slower", "no measurable change"]


class LatencyPart(Part):
    runs: int
    batch: int
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float | None = Field(description="only from 1,000 runs on")
    mean_ms: float
    samples_per_second: float


class MemoryPart(Part):
    before_bytes: int = Field(description="peak resident memory with the runtime imported and nothing loaded")
    load_peak_bytes: int
    run_peak_bytes: int


class ScorePart(Part):
    metric: str
    value: float
    samples: int
    split: str
    per_class: dict[str, float] | None


class ChangePart(Part):
    drop: float = Field(description="of the metric, in its unit; positive is worse")
    worst_class: tuple[str, float] | None
    right_to_wrong: int | None
    wrong_to_right: int | None
    disagreements: int | None


class ClassPart(Part):
    name: str
    samples: int
    before: float = Field(description="accuracy in percent")
    after: float
    right_to_wrong: int
    wrong_to_right: int
    p_value: float = Field(description="exact McNemar test, corrected over the classes (Holm)")


class BehaviourPart(Part):
    churn: float = Field(description="share of samples whose prediction changed")
    negative_flip_rate: float = Field(description="share of samples that went from right to wrong")
    p_value: float = Field(description="exact McNemar test over all samples")
    calibration_error_before: float = Field(description="expected calibration error, 15 bins, 0 to 1")
    calibration_error_after: float
    divergence: float = Field(description="mean KL divergence of the predicted distributions, in nats")
    classes: list[ClassPart] = Field(description="the class that lost most first")
    changed: list[int] = Field(description="positions in the dataset of changed predictions, the first 200")


class NodePart(Part):
    name: str
    op: str
    precision: str
    macs: int
    rule: str | None = Field(description="why it is float, where that needs an explanation")


class FilePart(Part):
    """One exported file and everything that was measured on it."""

    path: str = Field(description="relative to the run folder where it lies inside")
    files: dict[str, int] = Field(description="bytes by name")
    total_bytes: int
    transport_bytes: int = Field(description="the files compressed with deflate, level 9")
    parameters: int
    macs: int
    score: ScorePart | None
    latency: LatencyPart | None
    memory: MemoryPart | None
    integer_mac_share: float | None
    nodes: list[NodePart]
    speed: SpeedPart | None
    change: ChangePart | None
    behaviour: BehaviourPart | None = None


class BackendPart(Part):
    backend: str
    version: str | None
    baseline: FilePart
    compressed: FilePart
    smaller: float = Field(description="baseline's bytes over the compressed file's")


class StagePart(Part):
    id: str
    use: str
    seconds: float
    cached: bool
    params: dict[str, Any]
    facts: dict[str, Any]


class BudgetPart(Part):
    name: str
    limit: float
    actual: float | None
    holds: bool
    explanation: str


class ParityPart(Part):
    between: str
    max_abs_difference: dict[str, float]
    samples: int


class Report(Part):
    schema_version: str = SCHEMA_VERSION
    name: str
    status: Literal["done", "budget missed", "failed", "interrupted"]
    exit_code: int
    error: str | None
    summary: list[str] = Field(description="what came out, in sentences, the most important first")
    started: float = Field(description="seconds since the epoch")
    seconds: float
    metric: str | None
    metric_unit: str
    backends: list[BackendPart]
    budget: list[BudgetPart]
    stages: list[StagePart]
    parity: list[ParityPart]
    warnings: list[str]
    environment: dict[str, Any]
    recipe: dict[str, Any]


def from_result(result: RunResult) -> Report:
    """The document of a run, whole or in part."""
    name = result.recipe.resolved.get("metric")
    metric: MetricSpec | None = metrics.get(name) if name else None
    parts = [_backend(found, result) for found in result.backends]
    return Report(
        name=result.recipe.name,
        status=result.status,
        exit_code=int(exit_code(result)),
        error=str(result.error) if result.error else None,
        summary=_summary(result, parts, metric),
        started=result.started,
        seconds=result.seconds,
        metric=name,
        metric_unit=metric.unit if metric else "",
        backends=parts,
        budget=[_budget(check) for check in result.budget],
        stages=[
            StagePart(
                id=record.id,
                use=record.use,
                seconds=record.seconds,
                cached=record.cached,
                params=dict(record.params),
                facts=dict(record.facts),
            )
            for record in result.stages
        ],
        parity=[
            ParityPart(between=entry.between, max_abs_difference=dict(entry.max_abs_difference), samples=entry.samples)
            for entry in result.parity
        ],
        warnings=list(result.warnings),
        environment=dict(result.environment),
        recipe=result.recipe.resolved,
    )


def exit_code(result: RunResult) -> ExitCode:
    if result.status == "interrupted":
        return ExitCode.INTERRUPTED
    if result.error is not None:
        return result.error.exit_code
    return ExitCode.BUDGET_MISSED if result.status == "budget missed" else ExitCode.DONE


def _summary(result: RunResult, parts: list[BackendPart], metric: MetricSpec | None) -> list[str]:
    if result.status == "interrupted":
        return ["The run was interrupted; what it had done is below, and running it again resumes from there."]
    if result.error is not None:
        return ["The run failed; what it had done is below."]
    sentences = []
    for part in parts:
        after = part.compressed
        words = [f"{part.smaller:.2f}x smaller"] if part.smaller > 1 else [f"{1 / part.smaller:.2f}x larger"]
        if after.speed is not None:
            words.append(_speed_words(after.speed))
        if after.change is not None and metric is not None:
            words.append(_drop_words(after.change.drop, metric))
        sentences.append(f"{part.backend}: {', '.join(words)}.")
    missed = [check.name for check in result.budget if not check.holds]
    if missed:
        sentences.append(f"Budget missed: {', '.join(missed)}.")
    elif result.budget:
        sentences.append("Inside the budget.")
    return sentences


def _speed_words(speed: SpeedPart) -> str:
    if speed.verdict == "no measurable change":
        return f"no measurable change of speed ({speed.low:.2f} to {speed.high:.2f})"
    if speed.verdict == "slower":
        return f"{1 / speed.ratio:.2f}x slower"
    return f"{speed.ratio:.2f}x faster"


def _drop_words(drop: float, metric: MetricSpec) -> str:
    digits, unit = (2, " points") if metric.unit == "%" else (4, "")
    if round(abs(drop), digits) == 0:
        return f"{metric.name} unchanged"
    # The metric's own direction: an error that rises is up, an accuracy that falls is down.
    went_up = (drop < 0) == metric.higher_is_better
    return f"{metric.name} {'up' if went_up else 'down'} {abs(drop):.{digits}f}{unit}"


def _backend(found: BackendResult, result: RunResult) -> BackendPart:
    before, after = (_file(measured, result) for measured in (found.baseline, found.compressed))
    return BackendPart(
        backend=found.backend,
        version=found.version,
        baseline=before,
        compressed=after,
        smaller=before.total_bytes / max(after.total_bytes, 1),
    )


def _file(found: Measurement, result: RunResult) -> FilePart:
    path, fusion = found.artifact.path, found.fusion
    relative = path.relative_to(result.folder) if path.is_relative_to(result.folder) else path
    speed = found.speedup
    return FilePart(
        path=str(relative),
        files=dict(found.size.files),
        total_bytes=found.size.total_bytes,
        transport_bytes=found.size.transport_bytes,
        parameters=found.size.parameters,
        macs=found.size.macs,
        score=ScorePart(**found.score.__dict__) if found.score else None,
        latency=LatencyPart(**found.latency.__dict__) if found.latency else None,
        memory=MemoryPart(**found.memory.__dict__) if found.memory else None,
        integer_mac_share=fusion.integer_mac_share if fusion else None,
        nodes=[NodePart(**node.__dict__) for node in fusion.nodes] if fusion else [],
        speed=SpeedPart(ratio=speed.ratio, low=speed.interval.low, high=speed.interval.high, verdict=speed.verdict)
        if speed
        else None,
        change=ChangePart(**found.change.__dict__) if found.change else None,
        behaviour=_behaviour(found.behaviour) if found.behaviour else None,
    )


def _behaviour(found: Behaviour) -> BehaviourPart:
    classes = [ClassPart(**entry.__dict__) for entry in found.classes]
    return BehaviourPart(**{**found.__dict__, "classes": classes, "changed": list(found.changed)})


def _budget(check: BudgetCheck) -> BudgetPart:
    return BudgetPart(**check.__dict__)
