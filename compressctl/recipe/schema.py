"""The recipe as typed data, version 1. What the loader returns and everything after it reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from compressctl.core.author_code import AuthorCode
from compressctl.core.source import ImageSteps, SplitSizes, model_sources
from compressctl.core.target import Profile
from compressctl.core.tasks import TASKS, PairLoss, Task

VERSION = "compressctl/v1"


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


def parse_size(value: Any) -> Any:
    """Bytes from "5MB", "1.5 MiB" or a whole number. Decimal units count in 1000, binary units in 1024."""
    if not isinstance(value, str):
        return value
    text = value.replace(" ", "").lower()
    for suffix, factor in _UNITS:
        if text.endswith(suffix):
            try:
                return round(float(text.removesuffix(suffix)) * factor)
            except (ValueError, OverflowError):  # what is no number, and "1e999MB"
                break
    raise ValueError("not a size; write it like 5MB, 800KB or 1.5MiB")


_UNITS = (
    ("kib", 1024),
    ("mib", 1024**2),
    ("gib", 1024**3),
    ("kb", 1000),
    ("mb", 1000**2),
    ("gb", 1000**3),
    ("b", 1),
)


WrittenSize = Annotated[str, Field(pattern=r"^\s*[0-9.]+\s*([kKmMgG][iI]?)?[bB]\s*$")]
"""What parse_size reads, for the schema that editors check against."""

ByteSize = Annotated[
    int, Field(gt=0, le=1 << 50), BeforeValidator(parse_size, json_schema_input_type=int | WrittenSize)
]


LONGEST_SECONDS = 366 * 24 * 3600


def parse_duration(value: Any) -> Any:
    """Seconds from "90s", "30m", "1h30m" or a whole number."""
    if not isinstance(value, str):
        return value
    parts = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", value, re.ASCII)
    if parts is None or not value:
        raise ValueError("not a duration; write it like 90s, 30m or 1h30m")
    return sum(int(number or 0) * unit for number, unit in zip(parts.groups(), (3600, 60, 1), strict=True))


Duration = Annotated[
    int, Field(gt=0, le=LONGEST_SECONDS), BeforeValidator(parse_duration, json_schema_input_type=int | str)
]


class TargetSection(Section):
    backend: str = Field("onnxruntime", description="the runtime that will serve the model")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it runs")
    threads: int = Field(1, ge=0, le=4096, description="threads for one inference; 0 means all")
    batch_size: int = Field(1, ge=1, le=1_048_576, description="samples per inference when latency is measured")
    shapes: dict[str, Annotated[int, Field(ge=1, le=2_147_483_647)]] = Field(
        default_factory=dict,
        description="sizes of open axes by name, or `input.axis`, as in {H: 320, W: 320}: decides what is timed and counted, never "
        "what is scored; default: the data's sample of median size",
    )
    profile: Profile = Field("auto", description="instruction set to compress for; auto reads this machine")
    onnxruntime: str | None = Field(
        None,
        description='oldest ONNX Runtime that shall serve the file, as in ">=1.17", the oldest that can be asked for: keeps opset, IR '
        "version and operators within what it reads. Default: opset 21, which 1.18 reads, and what of its operators is fastest here",
    )
    watts_per_core: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="what one busy core draws: energy is estimated from it where no counter can be read",
    )

    @field_validator("onnxruntime", mode="before")
    @classmethod
    def _is_a_release(cls, value: object) -> object:
        if value is None or (isinstance(value, str) and re.fullmatch(r">= *\d+\.\d+(\.\d+)?", value)):
            return value
        raise ValueError('write the oldest release that shall serve the file, as in ">=1.17"')


Drop = Annotated[float, Field(ge=0, le=1e9)]
Percent = Annotated[float, Field(ge=0, le=100)]
Decibels = Annotated[float, Field(ge=-1000, le=1000)]
Cosine = Annotated[float, Field(ge=-1, le=1)]


class FidelityLimits(Section):
    """How near every output must be to the original's: one number for all outputs, or one for each that is named."""

    agreement: Percent | dict[str, Percent] | None = Field(
        None, description="least per cent of decisions equal to the original's, of outputs that look like class scores"
    )
    cosine: Cosine | dict[str, Cosine] | None = Field(
        None, description="least cosine of an output with the original's, as in 0.99, or {boxes: 0.99}"
    )
    sqnr_db: Decibels | dict[str, Decibels] | None = Field(
        None, description="least signal-to-noise ratio of an output against the original's, in dB"
    )

    kept: Percent | None = Field(
        None, description="least per cent of the original's own decoded results (boxes, strings, pixels) that remain"
    )
    added: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="most decoded results that the original does not give, in per cent of those that it gives",
    )

    @property
    def limits_fidelity(self) -> bool:
        return any(limit is not None for limit in (self.agreement, self.cosine, self.sqnr_db, *self.decoded))

    @property
    def decoded(self) -> tuple[float, ...]:
        """The limits on decoded results that are set."""
        return tuple(limit for limit in (self.kept, self.added) if limit is not None)


class GateSection(FidelityLimits):
    accuracy_drop: Drop | dict[str, Drop] | None = Field(
        None,
        description="most of the task's metric that may be lost against the original: points of a metric in percent, for perplexity "
        "and errors how much they may rise; of every head, or of those that are named",
    )
    otherwise: Literal["bisect", "stop", "undo"] | None = Field(
        None,
        description="when it does not hold: bisect (give back the parts that cost most, where the technique can), "
        "stop the run, or undo the stage; default: bisect where the technique can, else stop",
    )

    @model_validator(mode="after")
    def _limits_something(self) -> GateSection:
        if self.accuracy_drop is None and not self.limits_fidelity:
            raise ValueError("a gate limits something: accuracy_drop, agreement, cosine, sqnr_db, kept or added")
        return self


Unmatched = Literal["error", "note"]
"""What becomes of a pattern that fits nothing in the model."""

IfSlower = Literal["undo", "keep", "stop"]
IF_SLOWER = (
    "when the stage's file is slower on the target than what the stage was given: undo the stage, keep its result, or stop "
    "the run; default: undo for techniques whose point is speed where this machine is like the target, else keep"
)


class BundleLimits(Section):
    """What a language model's bundle may take, as its serving tool runs it."""

    size: ByteSize | None = Field(None, description="most bytes of all its files, as in 500MB")
    memory: ByteSize | None = Field(
        None, description="most resident memory of the process that serves it, as many tokens kept as were measured"
    )
    first_token_ms: float | None = Field(
        None, gt=0, le=1e9, description="most milliseconds to the first token, after the longest prompt that is timed"
    )
    tokens_per_second: float | None = Field(None, gt=0, le=1e9, description="least while decoding one text")
    speedup: float | None = Field(
        None, gt=0, le=1e9, description="least ratio of decoding speeds, compressed / original, same tool"
    )
    perplexity_rise: float | None = Field(
        None, ge=0, le=1e9, description="most by which the perplexity of the bundle's file may rise"
    )
    task_drop: Drop | dict[str, Drop] | None = Field(
        None,
        description="most that a task of lm_eval may lose, in its metric's own unit (0.02 of an accuracy from 0 to 1): every task, by the metric "
        "that comes first, or those that are named, as in {arc_easy: 0.02, arc_easy/acc_norm: 0.03}",
    )


class BudgetSection(FidelityLimits):
    accuracy_drop: Drop | dict[str, Drop] | None = Field(
        None,
        description="most of the task's metric that may be lost: points of a metric in percent, for perplexity and errors how much "
        "they may rise; of every head, or of those that are named",
    )
    size: ByteSize | None = Field(None, description="most bytes of the exported files, as in 5MB")
    packed_size: ByteSize | None = Field(
        None, description="most bytes of the exported file packed for transport, as in 18KB; needs `pack: true`"
    )
    speedup: float | None = Field(
        None, gt=0, le=1e9, description="least ratio of latency, original / compressed, same runtime"
    )
    p99_ms: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="most milliseconds of 99 in 100 calls, of as many as a full measurement makes (1,000)",
    )
    slowest_ms: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="most milliseconds of the dearest way through the network, taken by an input or not, where what is computed depends on the input; elsewhere of the median call",
    )
    worst_class_drop: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="most points that any one class may lose: of accuracy for classification, whatever the metric, else of a metric that has "
        "classes, as mean_iou",
    )
    bundle: BundleLimits | None = Field(
        None, description="limits of the bundle that the first deliverable writes, see `bundle` under export"
    )


Level = Literal["low", "medium", "high", "extreme"]
Prefer = Literal["balanced", "size", "speed", "quality"]


class SearchSection(Section):
    """What is asked of a search instead of stages."""

    level: Level | None = Field(
        None,
        description="the usual scale: low is 2x smaller and 0.5 lost; medium 4x, 2x faster, 1; high 8x, 4x, 3; extreme 16x, 8x, 8; limits that "
        "are given replace its own",
    )
    drop: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="most that may be lost: points of the metric; without labels per cent of changed decisions and of 1 - cosine; default: the "
        "level's, else 1",
    )
    speedup: float | None = Field(
        None, gt=0, le=1e9, description="least ratio of latency, original / found, same runtime"
    )
    size: ByteSize | None = Field(None, description="most bytes of the exported file, as in 5MB")
    smaller: float | None = Field(None, gt=0, le=1e9, description="least ratio of bytes, original / found")
    prefer: Prefer = Field("balanced", description="what counts among files that keep all limits")
    time: Duration | Literal["unlimited"] = Field(
        1800, description="how long it may take, as in 30m; or unlimited, until nothing is left to try"
    )
    costs: str | None = Field(
        None,
        min_length=1,
        description="file of what layers take on the machine that will serve the file, as `compressctl tables measure` wrote it there: speeds are "
        "then foretold for it, and nothing is timed here",
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="values for whatever trains, as in {epochs: 10, augment: {crop_padding: 4}}"
    )


@dataclass(frozen=True)
class ModelSection:
    """source: a name in the registry of model sources; params: that source's, validated."""

    source: str
    params: BaseModel


@dataclass(frozen=True)
class DataSection:
    source: str
    params: BaseModel
    sizes: SplitSizes


class FunctionSection(Section):
    """A function of the recipe author's."""

    function: AuthorCode = Field(
        description='"file.py:name", relative to the recipe, or "package.module:name"; alone it stands for the whole section'
    )
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the function")

    @property
    def name(self) -> str:
        """The function's own."""
        return self.function.rpartition(":")[2]


class MetricSection(FunctionSection):
    """A function of outputs and labels, both (n, ...), that gives one number."""

    higher_is_better: bool = Field(True, description="whether more of it is better")
    unit: Literal["%", ""] = Field("", description='"%" where a drop counts in points')


class PipelineSection(FunctionSection):
    """A function that calls the model and other files: `function(models, inputs)`, a result for each sample."""

    role: str = Field(min_length=1, description="what the function calls `model` by")
    compressed: dict[str, str] = Field(
        default_factory=dict,
        description="ONNX files that earlier runs made of `models`, by name: what is compressed here is judged together with these, the "
        "original with the original ones, so that what all of them lose is counted together",
    )


def onnx_file(path: str) -> ModelSection:
    return ModelSection("onnx", model_sources.get("onnx").params.model_validate({"path": path}))


@dataclass(frozen=True)
class Pipeline:
    """models: the other files that the function calls, by name."""

    section: PipelineSection
    models: Mapping[str, ModelSection]


@dataclass(frozen=True)
class DecodeSection:
    """use: a name in the registry of decoders; params: that decoder's, validated."""

    use: str
    params: BaseModel


class HeadWeight(Section):
    weight: float = Field(1.0, ge=0, le=1e6, description="of the head's loss beside the others'")


@dataclass(frozen=True)
class Head:
    """How one of several outputs is judged and trained, by the labels' field of its name. output: its name, None where the head's is
    the output's. weight: of its loss. metric, decode, loss: as in a recipe."""

    task: Task
    output: str | None
    metric: str | MetricSection | None
    decode: DecodeSection | None
    loss: FunctionSection | PairLoss | None
    weight: float = 1.0

    @property
    def metric_name(self) -> str | None:
        """What scores: what the recipe says, or the task's own; None where nothing does."""
        return _metric_name(self.metric, self.task)


def _metric_name(metric: str | MetricSection | None, task: Task) -> str | None:
    return metric.name if isinstance(metric, MetricSection) else metric or TASKS[task].metric


@dataclass(frozen=True)
class Stage:
    """One entry of `stages`. id is unique in the recipe. if_slower: see IF_SLOWER, None for the technique's own default."""

    id: str
    use: str
    params: BaseModel
    gate: GateSection | None = None
    enabled: bool = True
    if_slower: IfSlower | None = None


@dataclass(frozen=True)
class Export:
    """One deliverable. params: the backend's own, validated."""

    backend: str
    params: BaseModel


@dataclass(frozen=True)
class Recipe:
    """A recipe with every default filled in. base: the folder that its relative paths start from.

    resolved: the same as plain JSON-ready data, `extends`, `vars` and overrides applied, defaults included: what a lock
    file holds and what loads to an equal Recipe. export: deliverables, the target's own when none were given.
    unmatched: what becomes of a pattern in a stage's lists that fits nothing in the model. pack: whether each deliverable that is an ONNX file is packed for transport too. decode: what reads results off the outputs, the
    task's own where none was given (loss: what training lowers, a function of the author's or a loss between pairs by name, likewise); None where the metric takes the first output as it is.
    pipeline: the function and the files that the model works together with; it then gives the results, and the data are what it is given.
    search: what stages are looked for by; there are none then. image_steps: what the data section has of the model's, and where that stands.
    """

    name: str
    seed: int
    task: Task
    metric: str | MetricSection | None
    model: ModelSection
    data: DataSection | None
    target: TargetSection
    stages: tuple[Stage, ...]
    export: tuple[Export, ...]
    budget: BudgetSection
    base: Path
    resolved: dict[str, Any]
    pack: bool = False
    unmatched: Unmatched = "error"
    decode: DecodeSection | None = None
    loss: FunctionSection | PairLoss | None = None
    heads: Mapping[str, Head] = field(default_factory=dict)
    pipeline: Pipeline | None = None
    search: SearchSection | None = None
    image_steps: ImageSteps | None = field(default=None, compare=False)

    @property
    def metric_name(self) -> str | None:
        """What scores: what the recipe says, or the task's own; None where nothing does."""
        return _metric_name(self.metric, self.task)

    @property
    def judges(self) -> Mapping[str, Recipe | Head]:
        """Where task, metric, decoder and loss stand, by head; the recipe itself under an empty name where there are no heads."""
        return self.heads or {"": self}
