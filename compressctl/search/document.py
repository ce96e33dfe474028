"""What a search found, as search.json holds it. Fields are only ever added within one major version."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from compressctl.measure.results import Result, Speedup

SCHEMA_VERSION = "1.6"

BY_TABLES = "tables"
"""What told a file whose layers were chosen one by one."""

_MOST, _MOST_BYTES = 1e9, 1 << 50
Seconds = Annotated[float, Field(ge=0, le=_MOST)]
Ratio = Annotated[float, Field(gt=0, le=_MOST)]
Bytes = Annotated[int, Field(ge=1, le=_MOST_BYTES)]
"""Bounded, since files of other machines are read, too."""

LossKind = Literal["metric", "decoded results", "outputs"]


class Loss(Result):
    """Against the original on the same samples; below 0 where the file is better."""

    value: float = Field(
        description="of a metric in percent points, else in the metric's unit; of decoded results and outputs percent",
    )
    kind: LossKind = Field(
        description="metric: the task's own, on labels; decoded results: those of the original that are missing or those that it does "
        "not give, whichever are more; outputs: decisions that changed, or with at most 300 of them that are expected to among more samples, or 100 x (1 - cosine), "
        "whichever is most, of the worst output"
    )
    what: str = Field(description="the metric, or the output that lost most and how that was seen")
    unit: str = Field(description='"points", "%", or empty for a metric without a unit')
    split: str
    samples: int
    error: float | None = Field(
        None, description="standard error of value, in its unit; null where the samples do not tell it (1.4)"
    )
    is_expected: bool = Field(
        False, description="of more samples like these, of which too few were seen to count (1.4)"
    )
    sqnr_db: float | None = Field(None, description="of the worst output; null where identical or not compared")


class OnTarget(Result):
    """What a file is foretold to take on the machine that will serve it, by that machine's costs of single layers."""

    times_faster: Ratio | None = Field(description="than the float file; null where the costs tell nothing of it")
    why: str = Field("", description="why that is null")


class CostsOf(Result):
    """Where speeds come from that were not timed here."""

    file: str
    machine: str = Field(description="its processor")
    threads: int | None = None
    float_ms: float | None = Field(None, description="of one call of the float file there")


class Figures(Result):
    """One exported file."""

    total_bytes: Bytes
    smaller: Ratio = Field(description="the float file's bytes over this file's")
    transport_bytes: Bytes
    speed: Speedup | None = Field(description="against the float file, same runtime; null where it was not timed")
    on_target: OnTarget | None = Field(
        None, description="instead of speed, where costs of another machine were given; null where none were (1.3)"
    )
    latency_ms: float | None = Field(None, description="median of one call")
    is_noisy: bool = Field(False, description="whether the machine was busy meanwhile")
    loss: Loss | None = Field(description="null where nothing can tell")
    loss_unknown: str = Field("", description="why loss is null")
    has_decisions: bool = Field(False, description="whether any output looks like scores of classes")
    original_score: float | None = Field(None, description="of the float file, where a metric scores")
    score: float | None = None


class Predicted(Result):
    """What a file was expected to be before it was made."""

    by: str = Field(
        description="what told it: a network that was cut in the same way and not trained, or `tables`, summed over layers (1.2)"
    )
    total_bytes: Bytes
    speed: Speedup | None = Field(None, description="of that network, timed; null where tables told it")
    times_faster: Ratio | None = Field(None, description="by tables, which have no interval (1.2)")
    loss: float | None = Field(None, description="by tables, in the unit of the measured one (1.2)")


class Point(Result):
    """One recipe that was tried."""

    name: str
    family: str
    words: str = Field(description="what it does")
    key: str = Field(description="of everything that decides what it gives")
    state: Literal["measured", "failed"]
    figures: Figures | None = Field(None, description="on the validation split, timed briefly; null where it failed")
    confirmed: Figures | None = Field(
        None, description="of the file that was handed over: on the test split, timed in full; null for all others"
    )
    briefly: Speedup | None = Field(
        None,
        description="of the file that was handed over, as it was timed first: what later choices were made by (1.2)",
    )
    confirmed_run: str | None = Field(None, description="folder of that run")
    reason: str = Field("", description="why it failed")
    exit_code: int = Field(0, description="what a run of its own would end with")
    seconds: Seconds
    measure_seconds: Seconds = Field(description="of these, what exporting and measuring took")
    train_seconds: Seconds | None = Field(
        None,
        description="of these, what training took: 0 where it came from the cache, null where nothing trains (1.6)",
    )
    weight: float = Field(description="how much work it is beside others of its kind, for estimates")
    kind: str = Field(
        description="plain, calibrated, searched, planned (chosen layer by layer by tables), shaped (cut and not trained), trained or learned: "
        "the cheap ones are tried first"
    )
    predicted: Predicted | None = Field(None, description="before it was made; null where nothing told (1.1)")
    risk: int = Field(description="0 float16, 1 eight bits, 2 fewer: what counts where quality cannot be judged")
    recipe: dict[str, Any]
    recipe_file: str | None = None
    is_on_front: bool = Field(
        False, description="no other file is at least as good in size, speed and loss, and better in one"
    )
    holds: bool = Field(False, description="keeps every limit, as far as was measured")


class NotTried(Result):
    """A recipe that was left out."""

    name: str
    family: str
    words: str
    reason: str


class Limit(Result):
    """One line of what was asked."""

    name: Literal["drop", "speedup", "size"]
    asked: float = Field(description="points or percent, a ratio, bytes")
    words: str


class Nearest(Result):
    """A file that would do if one limit were another."""

    point: str
    limit: str = Field(description="the one that stands in the way")
    needed: float = Field(description="what that limit would have to be")
    words: str


class Search(Result):
    schema_version: str = SCHEMA_VERSION
    name: str
    status: Literal["met", "not met", "interrupted"]
    exit_code: int
    summary: list[str] = Field(description="what came out, in sentences, the most important first")
    goal: tuple[Limit, ...]
    level: str | None
    prefer: str
    judged: str = Field(description="what the loss was seen by, or why nothing judged it")
    chosen: str | None = Field(description="the point that is handed over")
    files: tuple[str, ...] = Field((), description="of the chosen point, relative to the folder")
    missed: tuple[str, ...] = Field((), description="limits that the file in the end does not keep, measured in full")
    error: str = Field("", description="what the file in the end failed with, where it did (1.6)")
    untried_for_time: int = Field(
        0, description="recipes that there was no time for, those that wait for them not counted (1.6)"
    )
    nearest: tuple[Nearest, ...] = ()
    points: tuple[Point, ...]
    shaped: tuple[Point, ...] = Field(
        (), description="networks that were cut and not trained, to see how large and fast they will be (1.1)"
    )
    not_tried: tuple[NotTried, ...]
    notes: tuple[str, ...] = ()
    tables: str | None = Field(None, description="file of the tables that planned files were chosen by (1.2)")
    widths: str | None = Field(None, description="file of the tables that networks were cut by (1.5)")
    costs: CostsOf | None = Field(
        None, description="of the machine that all speeds are foretold for; null where they were timed here (1.3)"
    )
    original_bytes: Bytes | None
    seconds: Seconds = Field(description="of this start")
    seconds_by_kind: dict[str, Seconds] = Field({}, description="of this start")
    environment: dict[str, Any] = Field({}, description="machine and packages")


def json_schema() -> dict[str, Any]:
    """The schema of search.json (JSON Schema 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Search.model_json_schema(mode="serialization"),
        "title": f"compressctl search {SCHEMA_VERSION}",
    }
