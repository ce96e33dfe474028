"""The manifest of a zoo as typed data, version 1."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from compressctl.core.errors import UsageError
from compressctl.core.patterns import matches
from compressctl.core.secrets import without_secrets
from compressctl.core.tasks import Task
from compressctl.pipeline.measure_level import MeasureLevel
from compressctl.recipe.schema import ByteSize, Duration, Level, Prefer, Section
from compressctl.sources.params import FilePath, Sha256
from compressctl.store.address import parse
from compressctl.zoo.results import NAME

VERSION = "compressctl/v1"

PLACES = ("path", "glob", "model")
"""Keys that say where a model is."""
_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_COMPARED = re.compile(r"\s*(<=|>=|<|>|=)?\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGBT]?)B?\s*", re.ASCII | re.IGNORECASE)
_COMPARISONS = {
    "<": float.__lt__,
    "<=": float.__le__,
    ">": float.__gt__,
    ">=": float.__ge__,
    "=": float.__eq__,
    None: float.__eq__,
}


def holds(limit: str, value: float) -> bool:
    """Whether a number is within a written limit such as ">50M", "<=1.5G", "2" or ">1M <10M"."""
    return all(
        _COMPARISONS[sign](float(value), float(number) * _FACTORS[unit.upper()])
        for sign, number, unit in _comparisons(limit)
    )


def _comparisons(limit: str) -> list[tuple[str | None, str, str]]:
    found, at = [], 0
    while at < len(limit):
        part = _COMPARED.match(limit, at)
        if part is None:
            break
        found.append((part[1], part[2], part[3]))
        at = part.end()
    if at < len(limit) or not found:
        raise ValueError('not a limit; write it like ">50M", "<=2", or ">1M <10M" for both')
    return found


def _checked(limit: Any) -> Any:
    if isinstance(limit, int) and not isinstance(limit, bool):
        limit = str(limit)
    if isinstance(limit, str):
        _comparisons(limit)
    return limit


Limit = Annotated[str, BeforeValidator(_checked, json_schema_input_type=int | str)]


def _share(value: Any) -> Any:
    """Percent from "2 %", "2%" or a number of jobs as it is."""
    if isinstance(value, str):
        number = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", value, re.ASCII)
        if number is None or float(number[1]) > 100:
            raise ValueError('not a share; write it like "2 %", or a number of jobs')
        return f"{float(number[1]):g} %"
    return value


def _takes_files(text: str) -> str:
    try:
        address = parse(text)
    except UsageError as error:
        raise ValueError("; ".join(filter(None, (error.message, error.hint)))) from None
    if not address.is_writable:
        raise ValueError("nothing is written there: name a folder of s3://, gs:// or file://")
    return text


FolderAddress = Annotated[str, AfterValidator(_takes_files)]


def _name(text: str) -> str:
    if text and not re.fullmatch(NAME, text):
        raise ValueError(
            "a name has letters (a to z), digits, `.`, `_` and `-`, at most 100, and begins with one of the first two: it becomes a file's"
        )
    return text


Name = Annotated[str, AfterValidator(_name)]


class Resources(Section):
    """What a job may take. A job that takes more is stopped, and is a row that says so."""

    cores: int | None = Field(
        None, ge=1, le=4096, description="threads of every library in the job, and what it counts for (default: 1)"
    )
    memory: ByteSize | None = Field(None, description="resident memory of its processes together")
    time: Duration | None = Field(
        None, description="on the clock, without what it stood still for timings (default: 1h)"
    )
    disk: ByteSize | None = Field(None, description="what its folder and its temporary files hold")
    ray: dict[str, Annotated[float, Field(ge=0.0001, le=1e9)]] | None = Field(
        None, description="what it takes of a Ray cluster's own resources, as in {timing: 1}; other executors ignore it"
    )

    @field_validator("ray")
    @classmethod
    def _as_ray_counts(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for name, amount in (value or {}).items():
            if name in ("CPU", "memory", "object_store_memory"):
                raise ValueError(f"{name} is none of them: `cores` and `memory` say what a job takes of these")
            if amount > 1 and not amount.is_integer():
                raise ValueError(f"{name}: Ray counts whole ones, or a part of one")
        return value


class When(Section):
    """What a model must be for a rule: all that is said holds. A fact that is not known fits nothing."""

    id: str | None = Field(None, description="a pattern over the model's id, as in `yolo*`")
    tags: tuple[str, ...] = Field((), description="all of these among the model's tags")
    task: Task | None = Field(None, description="what the manifest says of the model")
    ops: tuple[str, ...] = Field((), description="any of these operators, branches included: [LSTM, GRU]")
    no_ops: tuple[str, ...] = Field((), description="none of these operators")
    parameters: Limit | None = Field(None, description='numbers in its weights, as in ">50M"')
    size: Limit | None = Field(None, description='bytes of the file with its external data, as in "<100M"')
    inputs: Limit | None = Field(None, description='how many it has, as in "1" or ">1"')
    open_axes: bool | None = Field(None, description="whether an input has an axis without a size, the first aside")
    quantized: bool | None = Field(None, description="whether it holds quantization operators already")

    @property
    def asks_facts(self) -> bool:
        """Whether the model's file must be looked into."""
        own = {"id", "tags", "task"}
        return any(getattr(self, name) not in (None, ()) for name in type(self).model_fields if name not in own)


AUTO = "auto"
"""In the place of a recipe: the job searches for one."""


class AutoSection(Section):
    """What a search is asked, as options of `compressctl auto`."""

    drop: float | None = Field(None, ge=0, description="most that may be lost: points of the metric, else per cent")
    speedup: float | None = Field(None, gt=0, description="at least so many times as fast as the float file")
    size: ByteSize | None = Field(None, description="at most so large a file")
    smaller: float | None = Field(None, gt=0, description="at least so many times smaller than the float file")
    level: Level | None = Field(None, description="the usual scale; limits that are given replace its own")
    prefer: Prefer | None = Field(None, description="what counts among files that keep all limits")
    time: Duration | None = Field(
        None, description="how long the search may take (default: 30m), at most four fifths of the job's time"
    )
    data: FilePath | None = Field(
        None,
        description="samples, relative to the manifest: a folder of recorded calls, or a YAML file with a `data` section",
    )
    costs: str | None = Field(
        None,
        min_length=1,
        description="what layers take on the machine that will serve the files, relative to the manifest: a file that `compressctl tables measure` wrote "
        "there, or a folder that holds ID.json for each model",
    )
    base: FilePath | None = Field(
        None, description="a recipe whose data, task, metric and target count; its `model` is replaced"
    )
    train: dict[str, Any] = Field({}, description="values for whatever trains, as in {epochs: 10}")


class CardSection(Section):
    """What only its publisher knows of a model, for `zoo publish`."""

    base_model: str | None = Field(None, description="what it was made of, as owner/name on the Hub")
    license: str | None = Field(None, description="as the Hub names it, as in apache-2.0")
    dataset: str | None = Field(None, description="what it was scored on")
    pipeline_tag: str | None = Field(None, description="the Hub's name of the task")


class Rule(Section):
    """A recipe, and the models that it is for."""

    use: str = Field(description="a recipe's file, builtin:NAME, or `auto`, which searches for a recipe")
    auto: AutoSection = Field(AutoSection(), description="what the search is asked")
    id: Name | None = Field(
        None,
        description="what results call it (default: the file's name)",
        min_length=1,
        json_schema_extra={"pattern": NAME},
    )
    when: When = When()
    set: dict[str, Any] = Field({}, description="values of the recipe, as in {stages.int8.ranges: mse}")
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _asks_a_search(self) -> Self:
        if "auto" in self.model_fields_set and self.use != AUTO:
            raise ValueError(f"`auto` says what a search is asked, and `use` names {self.use}: write `use: auto`")
        return self

    @property
    def name(self) -> str:
        file = without_secrets(self.use).rpartition("/")[2]
        return self.id or re.sub(r"[^A-Za-z0-9._-]+", "-", file.removesuffix(".yaml").removesuffix(".yml"))[:100]


class ModelEntry(Section):
    """One model, or all that a pattern finds."""

    id: Name | None = Field(
        None,
        description="what results call it (default: the file's name)",
        min_length=1,
        json_schema_extra={"pattern": NAME},
    )
    path: FilePath | None = Field(
        None, description="an ONNX file, relative to the manifest, or its address: s3://, gs://, hf://, https://"
    )
    sha256: Sha256 | None = Field(None, description="what the file must have; https:// needs it")
    external: dict[str, Sha256] = Field(
        {}, description="the same for files of external data, by what the model calls them"
    )
    glob: FilePath | None = Field(None, description="ONNX files, as in `models/**/*.onnx` or `s3://bucket/**/*.onnx`")
    model: dict[str, Any] | None = Field(None, description="a model of another source, as a recipe has it")
    task: Task | None = Field(None, description="what its outputs mean, whatever its recipe says")
    tags: tuple[str, ...] = ()
    recipe: str | None = Field(None, description="a recipe for it, or `auto`, whatever the rules say")
    auto: AutoSection = Field(AutoSection(), description="what a search for its recipe is asked")
    set: dict[str, Any] = Field({}, description="values of its recipe")
    budget: dict[str, Any] = Field({}, description="limits beside its recipe's, or instead of them")
    resources: Resources = Resources()
    card: CardSection = CardSection()

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = [name for name in PLACES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "write one of `path`, `glob` and `model`" + (f", not {' and '.join(given)}" if given else "")
            )
        if self.path is None and (self.sha256 is not None or self.external):
            raise ValueError("checksums are of the file that `path` names; a recipe's `model` holds its own")
        if self.glob is not None and self.id is not None:
            raise ValueError("models that a pattern finds take their files' names: leave `id` out")
        return self


class ZooBudget(Section):
    """Limits of the whole."""

    at_most_failed: Annotated[int | str, BeforeValidator(_share)] | None = Field(
        None, description='jobs that end without a good file: a number, or "2 %"'
    )
    at_most_missed: Annotated[int | str, BeforeValidator(_share)] | None = Field(
        None, description="jobs whose file misses a budget or a gate"
    )
    total_size: ByteSize | None = Field(None, description="of all files that are handed over")

    @field_validator("at_most_failed", "at_most_missed")
    @classmethod
    def _not_below_nothing(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 0:
            raise ValueError("fewer than none cannot fail")
        return value


class Defaults(Section):
    """What holds for every job, unless its rule or its model says otherwise."""

    recipe: str | None = Field(None, description="for models that no rule fits; `auto` searches for one")
    auto: AutoSection = Field(AutoSection(), description="what every search is asked")
    set: dict[str, Any] = Field({}, description="values of every recipe")
    resources: Resources = Resources()
    card: CardSection = CardSection()
    measure: MeasureLevel = Field(MeasureLevel.FINAL, description="as for `compressctl apply --measure`")
    strict: bool = Field(
        False,
        description="whether a file counts as missed where outputs are far from the original's or were not compared",
    )
    retries: int = Field(
        1, ge=0, le=10, description="after what may pass by itself: a full disk, no memory, a lost connection"
    )


class Manifest(Section):
    """A zoo: models, recipes for them, and limits."""

    name: Name = Field("", description="default: the file's name", json_schema_extra={"pattern": f"{NAME}|^$"})
    defaults: Defaults = Defaults()
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    recipes: tuple[Rule, ...] = ()
    match: Literal["first", "all"] = Field(
        "first", description="the first rule that fits a model, or a job for each of them"
    )
    include: tuple[str, ...] = Field((), description="patterns over ids: these models alone")
    exclude: tuple[str, ...] = Field((), description="patterns over ids: not these")
    budget: ZooBudget = ZooBudget()
    store: FolderAddress | None = Field(
        None,
        description="where results, reports and artifacts are put, too, as in s3://bucket/zoo; jobs that are done there are not repeated",
    )
    shared_cache: FolderAddress | None = Field(
        None,
        description="a cache that a team shares, behind this machine's, as in s3://bucket/cache; the environment's counts before it",
    )
    track: Literal["mlflow"] | None = Field(
        None, description="where each job's result is told as well; see docs/zoo.md"
    )

    def is_wanted(self, model_id: str) -> bool:
        named = not self.include or any(matches(pattern, (model_id,)) for pattern in self.include)
        return named and not any(matches(pattern, (model_id,)) for pattern in self.exclude)
