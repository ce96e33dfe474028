"""What measuring found, as plain data with units in the names. Everything is about one exported file unless it says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from compressctl.core.backend import Artifact, ExecutedNode, StoredWeights
from compressctl.core.count import Count

Verdict = Literal["faster", "slower", "no measurable change", "too noisy to say"]


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """value: of the metric, on `samples` samples of the test split, through the runtime. per_class: accuracy in percent."""

    metric: str
    value: float
    samples: int
    split: str
    per_class: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Change:
    """The compressed artifact against the baseline on the same samples.

    drop: of the metric, in its unit, positive is worse. worst_class: its name and its drop in points.
    right_to_wrong, wrong_to_right, disagreements: counts of samples (classification only).
    """

    drop: float
    worst_class: tuple[str, float] | None = None
    right_to_wrong: int | None = None
    wrong_to_right: int | None = None
    disagreements: int | None = None


@dataclass(frozen=True)
class ClassChange:
    """One class before and after. before, after: accuracy in percent. p_value: exact McNemar, Holm's correction over classes."""

    name: str
    samples: int
    before: float
    after: float
    right_to_wrong: int
    wrong_to_right: int
    p_value: float


@dataclass(frozen=True)
class GroupChange:
    """One group of samples (the data's group column) before and after. before, after: accuracy in percent."""

    name: str
    samples: int
    before: float
    after: float
    right_to_wrong: int
    wrong_to_right: int


@dataclass(frozen=True)
class Groups:
    """gap: accuracy of the best group minus that of the worst, in points. amplification: gap after - gap before, > 0 is worse.

    interval: of the amplification, from resampling the samples of each group, both models' predictions together.
    """

    groups: tuple[GroupChange, ...]
    gap_before: float
    gap_after: float
    amplification: float
    interval: Interval


@dataclass(frozen=True)
class GroupError:
    """One group of samples before and after. before, after: mean absolute error, in the labels' unit."""

    name: str
    samples: int
    before: float
    after: float


@dataclass(frozen=True)
class ErrorGroups:
    """gap: mean absolute error of the worst group minus that of the best. The rest as in `Groups`."""

    groups: tuple[GroupError, ...]
    gap_before: float
    gap_after: float
    amplification: float
    interval: Interval


@dataclass(frozen=True)
class Example:
    """A sample whose prediction changed. label, before, after: class names. png: a small picture, None for no image."""

    index: int
    label: str
    before: str
    after: str
    png: bytes | None


@dataclass(frozen=True)
class Drift:
    """What changed for single samples of a model that gives numbers (regression, embeddings).

    mean_change, largest_change: absolute difference of outputs, in their unit. cosine: of each sample's output before and
    after, mean and least; None for single numbers. neighbours: mean share of each sample's 10 nearest that stay its nearest
    (embeddings). error_p_value: Wilcoxon's signed-rank test on the absolute errors, None without labels. worst: positions in
    the dataset of the samples that moved most. groups: None without labels or without groups in the data.
    """

    mean_change: float
    largest_change: float
    cosine_mean: float | None
    cosine_least: float | None
    neighbours: float | None
    error_p_value: float | None
    worst: tuple[int, ...]
    groups: ErrorGroups | None = None


@dataclass(frozen=True)
class TokenDrift:
    """A language model before and after. divergence: mean KL per token in nats. agreement: share of equal top-1 tokens.

    perplexity: exp of the mean cross-entropy of the labels, None without them. tokens: how many were compared.
    """

    tokens: int
    divergence: float
    agreement: float
    perplexity_before: float | None
    perplexity_after: float | None


@dataclass(frozen=True)
class Behaviour:
    """What changed for single samples although the score may not show it (classification).

    churn: share of samples whose prediction changed, 0 to 1. negative_flip_rate: share that went from right to wrong.
    p_value: exact McNemar over all samples. calibration errors: 15 bins of equal width, 0 to 1. divergence: mean KL of the
    predicted distributions, in nats. changed: positions in the dataset of samples whose prediction changed, the first 200.
    Source: Guo et al. 2017 (calibration); McNemar 1947; Holm 1979.
    """

    churn: float
    negative_flip_rate: float
    p_value: float
    calibration_error_before: float
    calibration_error_after: float
    divergence: float
    classes: tuple[ClassChange, ...]
    changed: tuple[int, ...]
    groups: Groups | None = None
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class OutputFidelity:
    """One output of a file against the original's, over all values of all compared samples.

    sqnr_db: signal-to-quantization-noise ratio, 10 log10(sum of squares / sum of squared differences); None where the outputs
    are identical, or the original's are all zero. cosine: of all values as one vector. largest_difference: in the output's unit.
    agreement: share of equal decisions, 0 to 1, by the rule in decided_by; None where the output does not look like scores.
    broken: values that are no numbers on one side alone; where there are any, no figure stands for the rest. undefined: those
    that are none on either side, which are in no figure; where all are, samples is 0. other_shapes: samples of calls in
    which the output has another shape, which are in no other figure. samples: of those that are.
    """

    name: str
    samples: int
    identical: bool
    sqnr_db: float | None
    cosine: float | None
    largest_difference: float | None
    agreement: float | None = None
    decided_by: str | None = None
    broken: int = 0
    other_shapes: int = 0
    undefined: int = 0

    @property
    def churn(self) -> float | None:
        """The share of decisions that changed, 0 to 1."""
        return None if self.agreement is None else 1 - self.agreement


@dataclass(frozen=True)
class Fidelity:
    """Every output of a file against the original's. split: whose samples. reason: why nothing was compared, else None.

    Source of the figures: the two files in the same runtime, on the same calls.
    """

    outputs: tuple[OutputFidelity, ...] = ()
    split: str | None = None
    samples: int = 0
    is_random: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one batch. p99_ms is None below 1,000 runs."""

    runs: int
    batch: int
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    mean_ms: float
    samples_per_second: float
    percentiles_ms: tuple[float, ...] = ()
    """0 to 100: the whole distribution, for pictures."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """What one call was given, by input."""
    values: Literal["data", "stretched", "random"] = "random"
    sample: str = "median"
    """Which of the data's samples, by size: the median, or the one at 10 or 90 %."""


@dataclass(frozen=True)
class Energy:
    """joules: of one inference (one batch), None when it cannot be known. source: what counted, or why nothing did."""

    joules: float | None
    provenance: Literal["measured", "estimated", "cannot be measured here"]
    source: str


@dataclass(frozen=True)
class Noise:
    """spread: how far the medians of one file's rounds lie apart (10 % to 90 %), as a share of their median.

    other_load: share of all processors that other programs took meanwhile, 0 to 1.
    """

    spread: float
    other_load: float
    noisy: bool


@dataclass(frozen=True)
class Speedup:
    """ratio: baseline's latency over this one's, same runtime, taking turns in the same rounds; see numerics/ratio.py.

    interval: 95 %, for another measurement of the same files. alternating: the ratio of calls that alternate in one process.
    """

    ratio: float
    interval: Interval
    verdict: Verdict
    alternating: float | None = None


@dataclass(frozen=True)
class Size:
    """files: bytes by name. transport_bytes: the same files, each compressed as for a download. macs: one sample.

    bit_operations: of one sample, each multiply-accumulate counted as bits of the weight x bits of the activation; None
    where no runtime has said how it executes the file. Source:
    van Baalen et al. 2020, "Bayesian Bits", section 2.3.
    """

    files: Mapping[str, int]
    total_bytes: int
    transport_bytes: int
    parameters: int
    macs: Count
    bit_operations: Count | None = None
    weights: tuple[StoredWeights, ...] = ()


@dataclass(frozen=True)
class PackedTensor:
    """One tensor of a packed file. values: how many numbers it holds."""

    name: str
    dtype: str
    values: int
    coding: str
    raw_bytes: int
    packed_bytes: int


@dataclass(frozen=True)
class PackedSize:
    """The exported file packed for transport. graph_bytes: of total_bytes, what is no tensor: the graph and the ledger.

    decode_seconds: to unpack it to a file."""

    path: Path
    total_bytes: int
    graph_bytes: int
    tensors: tuple[PackedTensor, ...]
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Memory:
    """Peak resident memory of a fresh process after loading and after running, and before either (the runtime itself)."""

    before_bytes: int
    load_peak_bytes: int
    run_peak_bytes: int


@dataclass(frozen=True)
class Parity:
    """The largest absolute difference per output between two ways to run what should be the same function."""

    between: str
    max_abs_difference: Mapping[str, float]
    samples: int


@dataclass(frozen=True)
class Fusion:
    """How the runtime really executes it.

    integer_mac_share: 0 to 1, of the MACs that are known; None where none is, or there are none. left_out: nodes that the
    share says nothing about although they multiply, by operator.
    """

    nodes: tuple[ExecutedNode, ...]
    integer_mac_share: float | None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatingPoint:
    """Speed at another operating point than the headline's. speedup: None for the baseline itself."""

    latency: Latency
    speedup: Speedup | None


@dataclass(frozen=True)
class Measurement:
    """One artifact. speedup, thrift (energy) and change are against the baseline, None for the baseline itself.

    step: latency against the artifact before it, where stages are measured. points: speed at other batches and threads.
    load_ms: from the file to a session that serves. fidelity: None for the baseline itself.
    """

    artifact: Artifact
    size: Size
    score: Score | None
    latency: Latency | None
    memory: Memory | None
    fusion: Fusion | None
    speedup: Speedup | None = None
    change: Change | None = None
    behaviour: Behaviour | None = None
    drift: Drift | None = None
    tokens: TokenDrift | None = None
    step: Speedup | None = None
    energy: Energy | None = None
    thrift: Speedup | None = None
    points: tuple[OperatingPoint, ...] = ()
    load_ms: float | None = None
    packed: PackedSize | None = None
    fidelity: Fidelity | None = None


@dataclass(frozen=True)
class BudgetCheck:
    """One line of the recipe's budget against what was measured. limit and actual in the budget's own unit."""

    name: str
    limit: float
    actual: float | None
    holds: bool
    explanation: str
