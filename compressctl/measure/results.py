"""What measuring found, as the report holds it: about one exported file unless it says so, with units in the names.

Fields are only ever added within one major version of the report; see `report/document.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compressctl.core.backend import ExecutedNode, StoredWeights

SMALLEST_GROUP = 10
"""Samples of a class or group below which its accuracy says nothing: a single flip would move it by ten points or more. Such
classes and groups are listed, and make neither the worst class nor the gap between groups."""

Verdict = Literal["faster", "slower", "no measurable change", "too noisy to say"]


class Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class Speedup(Result):
    """Of time or energy: both files on the same runtime, taking turns in the same rounds."""

    ratio: float = Field(
        description="baseline's median latency over this one's, calls back to back; of an interval with high > 1.5 low no "
        "headline: its bound is, or that it is too noisy to say"
    )
    low: float = Field(description="lower end of the 95 % interval for another measurement of the same files")
    high: float
    verdict: Verdict
    alternating: float | None = Field(None, description="the same ratio where calls of both alternate in one process")


class Latency(Result):
    """Of one batch."""

    runs: int
    batch: int
    threads: int
    p50_ms: float = Field(ge=0)
    p90_ms: float = Field(ge=0)
    p99_ms: float | None = Field(ge=0, description="only from 1,000 runs on")
    mean_ms: float = Field(ge=0)
    samples_per_second: float = Field(ge=0)
    percentiles_ms: tuple[float, ...] = Field((), description="the distribution: percentiles 0 to 100")
    shapes: dict[str, tuple[int, ...]] = Field({}, description="of the call that was timed, by input")
    values: Literal["data", "stretched", "random"] = Field(
        "random",
        description="whether a real sample was timed, one that was cut or repeated to the size asked for, or neither",
    )
    sample: str = Field(
        "median", description="which of the data's samples by size: median, 10 %, 90 %; all: many in turn"
    )
    inputs: int = Field(
        1,
        description="different inputs that took turns, where what is computed depends on them: mean_ms is the mean over them of each one's median, and "
        "percentiles are of them all (1.12)",
    )

    fastest_ms: float | None = Field(None, description="where inputs took turns: the least of their medians (1.12)")
    slowest_ms: float | None = Field(
        None, description="the largest of them: what the dearest way that was taken through the network takes (1.12)"
    )
    worst_ms: float | None = Field(
        None,
        description="where a stage's decisions leave something out: the mean over the inputs when everything is computed for each, as for the dearest input that there can be (1.13)",
    )

    @property
    def typical_ms(self) -> float:
        """What one call takes: the median, and where inputs took turns the mean over them."""
        return self.mean_ms if self.inputs > 1 else self.p50_ms


class OperatingPoint(Result):
    """Speed at another batch and number of threads than the headline's."""

    latency: Latency
    speed: Speedup | None = Field(description="against the float file at the same batch and threads")


class Energy(Result):
    joules: float | None = Field(description="of one inference (one batch); null when it cannot be known here")
    provenance: Literal["measured", "estimated", "cannot be measured here"]
    source: str = Field(description="what counted, or why nothing did")
    saving: Speedup | None = Field(None, description="float's joules over this file's, same runtime")


class Noise(Result):
    spread: float = Field(description="how far one file's medians lay apart (10 % to 90 %), share of their median")
    other_load: float = Field(description="share of all processors that other programs took meanwhile")
    noisy: bool


class Memory(Result):
    """Of a fresh process."""

    before_bytes: int = Field(description="peak resident memory with the runtime imported and nothing loaded")
    load_peak_bytes: int
    run_peak_bytes: int


class Score(Result):
    """Through the runtime. per_class: the metric by class, where it has one."""

    metric: str
    value: float
    samples: int
    split: str
    per_class: dict[str, float] | None
    reference: Literal["labels", "original"] = Field(
        "labels", description="original: the data has no labels, and the original's own decoded results stand for them"
    )


class Change(Result):
    """Against the baseline on the same samples. worst_class: its name and its drop in points: of accuracy for classification,
    of the metric by class for other tasks. The counts are for classification only."""

    drop: float = Field(description="of the metric, in its unit; positive is worse")
    worst_class: tuple[str, float] | None
    right_to_wrong: int | None
    wrong_to_right: int | None
    disagreements: int | None


class GroupChange(Result):
    name: str
    samples: int
    before: float = Field(description="accuracy in percent")
    after: float
    right_to_wrong: int
    wrong_to_right: int


class ClassChange(GroupChange):
    p_value: float = Field(description="exact McNemar test, corrected over the classes (Holm)")


class Groups(Result):
    groups: tuple[GroupChange, ...] = Field(description="the group that lost most first")
    gap_before: float = Field(description="best group's accuracy minus the worst's, in points")
    gap_after: float
    amplification: float = Field(description="gap after minus gap before; positive is worse")
    low: float = Field(description="lower end of the 95 % bootstrap interval of the amplification")
    high: float


class GroupError(Result):
    name: str
    samples: int
    before: float = Field(description="mean absolute error, in the labels' unit")
    after: float


class ErrorGroups(Result):
    groups: tuple[GroupError, ...] = Field(description="the group whose error grew most first")
    gap_before: float = Field(description="worst group's mean absolute error minus the best's")
    gap_after: float
    amplification: float = Field(description="gap after minus gap before; positive is worse")
    low: float = Field(description="lower end of the 95 % bootstrap interval of the amplification")
    high: float


class Example(Result):
    """A sample whose prediction changed. label, before, after: class names."""

    index: int = Field(description="position in the dataset")
    label: str
    before: str
    after: str
    png: str | None = Field(description="a small picture, base64; null where samples are no images")


class Drift(Result):
    """What changed for single samples of a model that gives numbers (regression, embeddings)."""

    mean_change: float = Field(description="mean absolute difference of the outputs, in their unit")
    largest_change: float
    cosine_mean: float | None = Field(description="of each sample's output before and after")
    cosine_least: float | None
    neighbours: float | None = Field(description="mean share of the 10 nearest samples that stay the nearest")
    error_p_value: float | None = Field(description="Wilcoxon's signed-rank test on the absolute errors")
    worst: tuple[int, ...] = Field(description="positions in the dataset of the samples that moved most")
    groups: ErrorGroups | None = Field(None, description="regression, where the data has a group column")


class TokenDrift(Result):
    """A language model before and after. perplexity: exp of the mean cross-entropy of the labels, null without them."""

    tokens: int
    divergence: float = Field(description="mean KL divergence per token, in nats")
    agreement: float = Field(description="share of equal most likely tokens")
    perplexity_before: float | None
    perplexity_after: float | None


class Behaviour(Result):
    """What changed for single samples although the score may not show it (classification).

    Source: Guo et al. 2017 (calibration); McNemar 1947; Holm 1979.
    """

    churn: float = Field(description="share of samples whose prediction changed")
    negative_flip_rate: float = Field(description="share of samples that went from right to wrong")
    p_value: float = Field(description="exact McNemar test over all samples")
    calibration_error_before: float = Field(description="expected calibration error, 15 bins, 0 to 1")
    calibration_error_after: float
    divergence: float = Field(description="mean KL divergence of the predicted distributions, in nats")
    classes: tuple[ClassChange, ...] = Field(description="the class that lost most first")
    changed: tuple[int, ...] = Field(description="positions in the dataset of changed predictions, the first 200")
    groups: Groups | None = Field(None, description="where the data has a group column")
    examples: tuple[Example, ...] = Field((), description="changed samples, right to wrong first")


class DecodedClass(Result):
    name: str
    reference: int
    kept: int
    added: int


class DecodedDraws(Result):
    """How many results remain on the same samples with inputs that differ by a hundred-thousandth at most, the first of them as they are."""

    inputs: int = Field(description="of each sample")
    kept_percent: float = Field(description="the mean, which limits are held against")
    kept_low: float
    kept_high: float
    added_percent: float
    added_low: float
    added_high: float


class DecodedChange(Result):
    """Decoded results (boxes, strings, masks) against the original's own on the same samples; no labels are needed."""

    unit: str = Field(description="what is counted")
    rule: str = Field(description="when one counts as kept")
    samples: int
    equal_samples: int = Field(description="samples whose results are wholly the same")
    reference: int = Field(description="what the original gives")
    kept: int = Field(description="of these, what is found again")
    added: int = Field(description="what the original does not give")
    character_error: float | None = Field(
        None, description="characters to change, in percent of the original's, where results are text"
    )
    classes: tuple[DecodedClass, ...] = ()
    draws: DecodedDraws | None = Field(
        None,
        description="counted on several inputs; null where no result changed, or many are counted, or inputs are no floats (1.7)",
    )

    @property
    def kept_percent(self) -> float | None:
        """The mean over draws. None where the original gives nothing."""
        if self.draws is not None:
            return self.draws.kept_percent
        return 100 * self.kept / self.reference if self.reference else None

    @property
    def added_percent(self) -> float | None:
        if self.draws is not None:
            return self.draws.added_percent
        return 100 * self.added / self.reference if self.reference else None


class OutputFidelity(Result):
    """One output against the original's, over all values of all compared samples.

    Where any value is broken, no figure stands for the rest.
    """

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
    decisions: int = Field(0, description="that were compared (1.8)")
    score_change: float | None = Field(
        None,
        description="root mean square of how far the winning score moved against the next four, beside what scales them all; nats for shares and "
        "logits, else the scores' unit; null with more than 300 decisions (1.8)",
    )
    score_change_decisions: int = Field(
        0, description="that it was told from: no end of a range stands among their scores (1.8)"
    )
    expected_churn: float | None = Field(
        None,
        description="share of decisions that would change among more samples like these, told from that change and the distance of the "
        "original's winning scores from the next ones, and at most what the count allows with 95 % confidence; null with more than 300 decisions, "
        "where churn says it (1.8)",
    )
    cosine_error: float | None = Field(
        None,
        description="standard error of cosine (jackknife over calls); null with fewer than 5 or more than 10,000 calls (1.8)",
    )
    churn_error: float | None = Field(
        None, description="standard error of churn, of single decisions or, where more, over calls (1.8)"
    )
    broken: int = Field(0, description="values that are NaN or infinite on one side alone")
    other_shapes: int = Field(0, description="samples of calls in which the output has another shape")
    undefined: int = Field(0, description="values that are NaN or infinite in both; where all are, samples is 0")


class Fidelity(Result):
    """Every output of a file against the original's: the two files in the same runtime, on the same calls."""

    outputs: tuple[OutputFidelity, ...]
    split: str | None = Field(description="whose samples")
    samples: int
    steps: int | None = Field(
        None,
        description="of all samples together, where these are sequences, in which each file goes on from its own states",
    )
    is_random: bool = Field(False, description="random values stood in for data")
    reason: str | None = Field(None, description="why nothing was compared")


class PackedTensor(Result):
    name: str
    dtype: str
    values: int = Field(description="how many numbers it holds")
    coding: str = Field(description="outermost first, as `compressctl inspect` shows it")
    raw_bytes: int
    packed_bytes: int = Field(description="0 where it is stored with an equal tensor")


class PackedSize(Result):
    """The file packed for transport: unpacked again it was the same, byte by byte."""

    path: str = Field(description="relative to the run folder")
    total_bytes: int
    graph_bytes: int = Field(description="of these, what is no tensor: the graph and the ledger")
    smaller: float = Field(description="the float model's file over the packed file, in bytes")
    smaller_than_parameters: float = Field(description="4 bytes for each parameter of the float model over the same")
    tensors: tuple[PackedTensor, ...]
    encode_seconds: float
    decode_seconds: float


class Parity(Result):
    """Two ways to run what should be the same function. max_abs_difference: by output."""

    between: str
    max_abs_difference: dict[str, float]
    samples: int


class HeadResult(Result):
    """One of several outputs, by its own task. change and what follows: null for the baseline itself."""

    name: str
    unit: str = Field(description='the metric\'s: "%" or ""')
    score: Score | None
    change: Change | None
    behaviour: Behaviour | None
    drift: Drift | None
    decoded: DecodedChange | None


class Measurement(Result):
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
    weights: tuple[StoredWeights, ...] = Field((), description="stored weights by element type")
    score: Score | None
    latency: Latency | None
    memory: Memory | None
    load_ms: float | None = Field(None, description="from the file to a session in a fresh process, median of several")
    packed: PackedSize | None = Field(None, description="where the recipe says `pack: true`")
    integer_mac_share: float | None = Field(
        description="of the MACs that are known, as the runtime executes them; null where none is"
    )
    integer_share_leaves_out: dict[str, int] = Field(
        {}, description="executed nodes that multiply and could not be counted, by operator"
    )
    nodes: tuple[ExecutedNode, ...]
    speed: Speedup | None
    change: Change | None
    behaviour: Behaviour | None = None
    drift: Drift | None = Field(None, description="regression and embeddings")
    tokens: TokenDrift | None = Field(None, description="language models")
    decoded: DecodedChange | None = Field(None, description="where the task's results are decoded")
    heads: tuple[HeadResult, ...] = Field((), description="where several outputs are judged, each by its own metric")
    energy: Energy | None = None
    points: tuple[OperatingPoint, ...] = Field((), description="speed at other batches, threads and sizes of samples")
    fidelity: Fidelity | None = Field(None, description="null for the baseline itself")
    paths: Paths | None = Field(
        None, description="of a network that decides by its input what is computed, on the split that reports (1.12)"
    )


class WaterfallStep(Result):
    """The file as it would be after one stage; the first is the float model, the last the file handed over."""

    id: str
    total_bytes: int
    transport_bytes: int
    score: Score | None
    drop: float | None = Field(description="of the metric against the float model, in its unit; positive is worse")
    latency: Latency | None
    speed: Speedup | None = Field(description="against the float model")
    step: Speedup | None = Field(description="against the stage before")


class FirstToken(Result):
    """From the prompt to the first token of the answer."""

    prompt_tokens: int
    median_ms: float = Field(ge=0)
    speed: Speedup | None = Field(None, description="against the float bundle, in turns; null for that itself")


class Generation(Result):
    """One bundle."""

    size_bytes: int = Field(description="of all files that must travel, tokenizer included")
    perplexity: float | None = Field(
        None, description="of the file in the bundle, on the split that reports; null without data"
    )
    scored_tokens: int = 0
    first_token: tuple[FirstToken, ...] = Field(
        (), description="by length of the prompt; empty where nothing was timed"
    )
    decoded_tokens: int = Field(0, description="in a row, after the first, whose time was taken")
    tokens_per_second: float | None = Field(None, description="while decoding one text, the median over rounds")
    speed: Speedup | None = Field(None, description="of decoding, against the float bundle, in turns")
    memory: Memory | None = Field(
        None, description="run_peak_bytes: with as many tokens kept as full_context_tokens says"
    )
    full_context_tokens: int = 0


class Continuations(Result):
    """What both bundles write after the same prompts, each token the likeliest."""

    prompts: int
    tokens: int = Field(description="of each continuation")
    same: int = Field(description="continuations that are equal to the last token")
    same_tokens: float = Field(description="share of tokens before the first that differs")


class TaskScore(Result):
    """Both bundles on a task of lm-eval, by one of its metrics, in that metric's own unit."""

    task: str
    metric: str
    filter: str = Field(
        description="how answers were read, by its name in the task; none where they were taken as they are"
    )
    samples: int
    shots: int | None = Field(description="solved samples before each question; null for a group of tasks")
    higher_is_better: bool
    baseline: float | None = Field(description="null where it came out as no finite number, as for compressed")
    compressed: float | None
    baseline_error: float | None = Field(description="standard error over the samples; null where lm-eval has none")
    compressed_error: float | None

    @property
    def drop(self) -> float | None:
        """By how much the compressed bundle is worse; negative where it is better, None where either score is no number."""
        if self.baseline is None or self.compressed is None:
            return None
        fall = self.baseline - self.compressed
        return fall if self.higher_is_better else -fall


class BundleResult(Result):
    """The float model and the compressed one as bundles for the same tool."""

    tool: str
    version: str | None
    folder: str = Field(description="in the run's folder")
    threads: int
    baseline: Generation
    compressed: Generation
    continuations: Continuations | None = None
    divergence: float | None = Field(
        None,
        description="mean KL divergence of the next token's probabilities from the float bundle's, in nats a token",
    )
    same_next: float | None = Field(None, description="share of tokens at which both think the same next one likeliest")
    scored_texts: int = Field(0, description="whose tokens perplexity and divergence count, each read by itself (1.11)")
    longest_text: int = Field(
        0, description="tokens of the longest of those, context that is not counted with them (1.11)"
    )
    prompts: Literal["data", "random"] = Field("data", description="what was timed and continued")
    tasks: tuple[TaskScore, ...] = Field((), description="of lm-eval, where the recipe names some (1.10)")
    evaluator: str | None = Field(None, description="what scored the tasks, with its version (1.10)")
    notes: tuple[str, ...] = ()


class PathResult(Result):
    """One way through a network that decides by its input."""

    name: str
    samples: int
    share: float = Field(description="of the samples")
    macs: int | None = Field(description="multiply-accumulates of one sample; null where a node's are unknown")
    before: float | None = Field(
        description="the metric of the float file on these samples; null where it has none on them"
    )
    after: float | None = Field(description="of this file")


class PathGroup(Result):
    """Samples of one class, or of one group of the data."""

    kind: Literal["class", "group"]
    name: str
    samples: int
    early: float = Field(description="share of them for which part of the network is not computed")
    before: float | None = Field(description="the metric of the float file on them")
    after: float | None


class PathShift(Result):
    """The same file on data that nobody chose thresholds for."""

    name: str = Field(description="what was done to the inputs")
    samples: int
    shares: dict[str, float] = Field(description="of the samples, by path")
    macs: float | None = Field(description="the mean over samples")
    before: float | None = Field(description="the metric of the float file on these inputs")
    after: float | None


class Paths(Result):
    """What a file computes for which samples, in its runtime."""

    samples: int
    paths: tuple[PathResult, ...] = Field(
        description="the ways that were taken, the cheapest first; rare ones together"
    )
    average_macs: float | None = Field(description="the mean over samples")
    worst_macs: int | None = Field(description="of the dearest way, taken or not")
    least_macs: int | None = Field(description="of the cheapest way that was taken")
    groups: tuple[PathGroup, ...] = Field(
        (), description="classes and groups of the data, those that leave early most first"
    )
    shifts: tuple[PathShift, ...] = ()
    reason: str | None = Field(None, description="why inputs were not shifted")


class BackendResult(Result):
    """One export target: the float model and the compressed one on the same runtime."""

    backend: str
    version: str | None
    baseline: Measurement
    compressed: Measurement
    smaller: float = Field(description="baseline's bytes over the compressed file's")
    noise: Noise | None = None
    notes: tuple[str, ...] = Field((), description="what the file's user must know, as in: engine not built")
    waterfall: tuple[WaterfallStep, ...] = Field((), description="float, after each stage, handed over")
    bundle: BundleResult | None = Field(None, description="of a language model for the runtime's serving tool (1.9)")


class BudgetCheck(Result):
    """One line of the recipe's budget against what was measured. limit and actual in the budget's own unit."""

    name: str
    limit: float
    actual: float | None
    holds: bool
    explanation: str
