"""The report as one document: everything shown anywhere is rendered from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = "1.5"
SMALLEST_GROUP = 10
"""Samples of a class or group below which its accuracy says too little to be compared."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpeedPart(Part):
    ratio: float = Field(
        description="baseline's median latency over this one's, calls back to back; of an interval with high > 1.5 low no "
        "headline: its bound is, or that it is too noisy to say"
    )
    low: float = Field(description="lower end of the 95 % interval for another measurement of the same files")
    high: float
    verdict: Literal["faster", "slower", "no measurable change", "too noisy to say"]
    alternating: float | None = Field(None, description="the same ratio where calls of both alternate in one process")


class LatencyPart(Part):
    runs: int
    batch: int
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float | None = Field(description="only from 1,000 runs on")
    mean_ms: float
    samples_per_second: float
    percentiles_ms: list[float] = Field([], description="the distribution: percentiles 0 to 100")
    shapes: dict[str, list[int]] = Field({}, description="of the call that was timed, by input")
    values: Literal["data", "stretched", "random"] = Field(
        "random",
        description="whether a real sample was timed, one that was cut or repeated to the size asked for, or neither",
    )
    sample: str = Field("median", description="which of the data's samples by size: median, 10 %, 90 %")


class LoadPart(Part):
    """Speed at another batch and number of threads than the headline's."""

    latency: LatencyPart
    speed: SpeedPart | None = Field(description="against the float file at the same batch and threads")


class EnergyPart(Part):
    joules: float | None = Field(description="of one inference (one batch); null when it cannot be known here")
    provenance: Literal["measured", "estimated", "cannot be measured here"]
    source: str = Field(description="what counted, or why nothing did")
    saving: SpeedPart | None = Field(None, description="float's joules over this file's, same runtime")


class NoisePart(Part):
    spread: float = Field(description="how far one file's medians lay apart (10 % to 90 %), share of their median")
    other_load: float = Field(description="share of all processors that other programs took meanwhile")
    noisy: bool


class WeightsPart(Part):
    dtype: str
    elements: int
    stored_bytes: int
    zeros: int


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


class GroupPart(Part):
    name: str
    samples: int
    before: float = Field(description="accuracy in percent")
    after: float
    right_to_wrong: int
    wrong_to_right: int


class GroupsPart(Part):
    groups: list[GroupPart] = Field(description="the group that lost most first")
    gap_before: float = Field(description="best group's accuracy minus the worst's, in points")
    gap_after: float
    amplification: float = Field(description="gap after minus gap before; positive is worse")
    low: float = Field(description="lower end of the 95 % bootstrap interval of the amplification")
    high: float


class GroupErrorPart(Part):
    name: str
    samples: int
    before: float = Field(description="mean absolute error, in the labels' unit")
    after: float


class ErrorGroupsPart(Part):
    groups: list[GroupErrorPart] = Field(description="the group whose error grew most first")
    gap_before: float = Field(description="worst group's mean absolute error minus the best's")
    gap_after: float
    amplification: float = Field(description="gap after minus gap before; positive is worse")
    low: float = Field(description="lower end of the 95 % bootstrap interval of the amplification")
    high: float


class ExamplePart(Part):
    index: int = Field(description="position in the dataset")
    label: str
    before: str
    after: str
    png: str | None = Field(description="a small picture, base64; null where samples are no images")


class DriftPart(Part):
    mean_change: float = Field(description="mean absolute difference of the outputs, in their unit")
    largest_change: float
    cosine_mean: float | None = Field(description="of each sample's output before and after")
    cosine_least: float | None
    neighbours: float | None = Field(description="mean share of the 10 nearest samples that stay the nearest")
    error_p_value: float | None = Field(description="Wilcoxon's signed-rank test on the absolute errors")
    worst: list[int] = Field(description="positions in the dataset of the samples that moved most")
    groups: ErrorGroupsPart | None = Field(None, description="regression, where the data has a group column")


class TokensPart(Part):
    tokens: int
    divergence: float = Field(description="mean KL divergence per token, in nats")
    agreement: float = Field(description="share of equal most likely tokens")
    perplexity_before: float | None
    perplexity_after: float | None


class BehaviourPart(Part):
    churn: float = Field(description="share of samples whose prediction changed")
    negative_flip_rate: float = Field(description="share of samples that went from right to wrong")
    p_value: float = Field(description="exact McNemar test over all samples")
    calibration_error_before: float = Field(description="expected calibration error, 15 bins, 0 to 1")
    calibration_error_after: float
    divergence: float = Field(description="mean KL divergence of the predicted distributions, in nats")
    classes: list[ClassPart] = Field(description="the class that lost most first")
    changed: list[int] = Field(description="positions in the dataset of changed predictions, the first 200")
    groups: GroupsPart | None = Field(None, description="where the data has a group column")
    examples: list[ExamplePart] = Field([], description="changed samples, right to wrong first")


class OutputPart(Part):
    """One output against the original's, over all values of all compared samples."""

    name: str
    samples: int = Field(description="compared; without those whose output has another shape")
    identical: bool
    sqnr_db: float | None = Field(description="signal to noise; null where identical, or without a signal")
    cosine: float | None
    largest_difference: float | None
    agreement: float | None = Field(
        None, description="share of equal decisions; null where it does not look like scores"
    )
    churn: float | None = Field(None, description="share of changed decisions")
    decided_by: str | None = Field(None, description="how a decision is read from the output")
    broken: int = Field(0, description="values that are NaN or infinite on one side alone")
    other_shapes: int = Field(0, description="samples of calls in which the output has another shape")
    undefined: int = Field(0, description="values that are NaN or infinite in both; where all are, samples is 0")


class FidelityPart(Part):
    outputs: list[OutputPart]
    split: str | None = Field(description="whose samples")
    samples: int
    is_random: bool = Field(False, description="random values stood in for data")
    reason: str | None = Field(None, description="why nothing was compared")


class NodePart(Part):
    name: str
    op: str
    precision: str
    macs: int | None = Field(description="0 where it has none, null where it multiplies and could not be counted (1.5)")
    rule: str | None = Field(description="why it is float, where that needs an explanation")
    kernel: str | None = Field(None, description="the implementation that the runtime says it chose")


class PackedTensorPart(Part):
    name: str
    dtype: str
    values: int = Field(description="how many numbers it holds")
    coding: str = Field(description="outermost first, as `compressctl inspect` shows it")
    raw_bytes: int
    packed_bytes: int = Field(description="0 where it is stored with an equal tensor")


class PackedPart(Part):
    """The file packed for transport: unpacked again it was the same, byte by byte."""

    path: str = Field(description="relative to the run folder")
    total_bytes: int
    graph_bytes: int = Field(description="of these, what is no tensor: the graph and the ledger")
    smaller: float = Field(description="the float model's file over the packed file, in bytes")
    smaller_than_parameters: float = Field(description="4 bytes for each parameter of the float model over the same")
    tensors: list[PackedTensorPart]
    encode_seconds: float
    decode_seconds: float


class FilePart(Part):
    """One exported file and everything that was measured on it."""

    path: str = Field(description="relative to the run folder where it lies inside")
    files: dict[str, int] = Field(description="bytes by name")
    total_bytes: int
    transport_bytes: int = Field(description="the files compressed with Zstandard, level 9 (deflate before 1.2)")
    parameters: int
    macs: int | None = Field(
        description="multiply-accumulates of one sample; null where a node's are unknown, which before 1.5 counted 0"
    )
    macs_at_least: int | None = Field(None, description="where macs is null: what is known of them")
    macs_unknown: dict[str, int] = Field({}, description="nodes that multiply and could not be counted, by operator")
    bit_operations: int | None = Field(
        None,
        description="each multiply-accumulate x bits of weight x bits of activation; null where a node's are unknown",
    )
    bit_operations_at_least: int | None = Field(None, description="where bit_operations is null: what is known of them")
    weights: list[WeightsPart] = Field([], description="stored weights by element type")
    score: ScorePart | None
    latency: LatencyPart | None
    memory: MemoryPart | None
    load_ms: float | None = Field(None, description="from the file to a session in a fresh process, median of several")
    packed: PackedPart | None = Field(None, description="where the recipe says `pack: true`")
    integer_mac_share: float | None = Field(
        description="of the MACs that are known, as the runtime executes them; null where none is"
    )
    integer_share_leaves_out: dict[str, int] = Field(
        {}, description="executed nodes that multiply and could not be counted, by operator"
    )
    nodes: list[NodePart]
    speed: SpeedPart | None
    change: ChangePart | None
    behaviour: BehaviourPart | None = None
    drift: DriftPart | None = Field(None, description="regression and embeddings")
    tokens: TokensPart | None = Field(None, description="language models")
    energy: EnergyPart | None = None
    points: list[LoadPart] = Field([], description="speed at other batches, threads and sizes of samples")
    fidelity: FidelityPart | None = Field(None, description="null for the baseline itself")


class WaterfallPart(Part):
    """The file as it would be after one stage; the first is the float model, the last the file handed over."""

    id: str
    total_bytes: int
    transport_bytes: int
    score: ScorePart | None
    drop: float | None = Field(description="of the metric against the float model, in its unit; positive is worse")
    latency: LatencyPart | None
    speed: SpeedPart | None = Field(description="against the float model")
    step: SpeedPart | None = Field(description="against the stage before")


class BackendPart(Part):
    backend: str
    version: str | None
    baseline: FilePart
    compressed: FilePart
    smaller: float = Field(description="baseline's bytes over the compressed file's")
    noise: NoisePart | None = None
    notes: list[str] = Field([], description="what the file's user must know, as in: engine not built")
    waterfall: list[WaterfallPart] = Field([], description="float, after each stage, handed over")


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
    recipe_file: str | None = Field(None, description="the recipe's path as it was named, relative where it lies below")


def json_schema() -> dict[str, Any]:
    """The schema of report.json (JSON Schema 2020-12). Fields are only ever added within one major version."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"compressctl report {SCHEMA_VERSION}",
        **Report.model_json_schema(mode="serialization"),
    }
