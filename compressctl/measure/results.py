"""What measuring found, as plain data with units in the names. Everything is about one exported file unless it says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from compressctl.core.backend import Artifact, ExecutedNode

Verdict = Literal["faster", "slower", "no measurable change"]


@dataclass(frozen=True)
class Interval:
    """A 95 % bootstrap confidence interval."""

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


@dataclass(frozen=True)
class Speedup:
    """ratio: baseline's median latency over this one's, same runtime, interleaved in one session."""

    ratio: float
    interval: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Size:
    """files: bytes by name. transport_bytes: the same files, each compressed as for a download. macs: one sample."""

    files: Mapping[str, int]
    total_bytes: int
    transport_bytes: int
    parameters: int
    macs: int


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
    """How the runtime really executes it. integer_mac_share: 0 to 1."""

    nodes: tuple[ExecutedNode, ...]
    integer_mac_share: float


@dataclass(frozen=True)
class Measurement:
    """One artifact. speedup and change are against the baseline, None for the baseline itself."""

    artifact: Artifact
    size: Size
    score: Score | None
    latency: Latency | None
    memory: Memory | None
    fusion: Fusion | None
    speedup: Speedup | None = None
    change: Change | None = None
    behaviour: Behaviour | None = None


@dataclass(frozen=True)
class BudgetCheck:
    """One line of the recipe's budget against what was measured. limit and actual in the budget's own unit."""

    name: str
    limit: float
    actual: float | None
    holds: bool
    explanation: str
