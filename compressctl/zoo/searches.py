"""Jobs that search for their recipe: what `compressctl auto` is asked for a model, and what became of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from compressctl.core.errors import LONGEST_MESSAGE, CompressctlError, UsageError
from compressctl.core.regular_files import read_regular
from compressctl.recipe.as_yaml import as_yaml
from compressctl.recipe.compose import merged
from compressctl.recipe.loader import load, read
from compressctl.recipe.nodes import plain
from compressctl.recipe.schema import VERSION, Recipe, SearchSection
from compressctl.search.document import Search
from compressctl.search.subject import data_sections
from compressctl.sources.fingerprint import existing
from compressctl.store.address import is_address
from compressctl.zoo.models import Model
from compressctl.zoo.outcome import figures_of, outcome_of
from compressctl.zoo.results import Figures, Outcome
from compressctl.zoo.schema import AutoSection

_SHARE = 0.8
"""Of a job's time that its search may take: the last measurement and the report come after it."""
_MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class Searching:
    """subject: what `compressctl auto` is given, an ONNX file, a recipe or builtin:NAME. options: what it is asked. probe: a recipe of the
    model and the data without stages, as text; None where the subject is a recipe. seconds: that it may take. costs: the file of what layers
    take on the machine that it is for; None for this one."""

    subject: str
    options: tuple[str, ...]
    probe: str | None
    seconds: int
    costs: Path | None = None


def searching(asked: AutoSection, model: Model, base: Path, seconds: int) -> Searching:
    """base: the manifest's folder. seconds: that the job may take. Raises UsageError for a model that auto takes only within a recipe."""
    if model.entry.budget:
        raise UsageError(
            "a search's limits stand in `auto`, not in `budget`", hint="as in `auto: {drop: 1, size: 5MB}`"
        )
    start = None if asked.base is None else recipe_place(asked.base, base)
    own = SearchSection() if start is None else _own(start)
    own_seconds = math.inf if own.time == "unlimited" else own.time
    limit = int(min(asked.time or own_seconds, max(1, _SHARE * seconds)))
    data = _place(asked.data, base) if asked.data is not None else None
    costs = _costs(asked.costs, base, model.id) if asked.costs is not None else None
    options = tuple(_options(asked, limit, data, costs))
    if start is not None:
        beside = Path(start).parent / own.costs if own.costs is not None else None
        return Searching(start, options, None, limit, costs or beside)
    section = model.section(base)
    is_builtin = section.get("source") == "builtin" and set(section) == {"source", "name"}
    if model.path is None and not is_builtin:
        raise UsageError(
            "a search takes an ONNX file of this machine, and this model is another",
            hint="name a recipe with its data, whose `model` this one replaces: `auto: {base: recipe.yaml}`",
        )
    found = data_sections(data, Path.cwd()) if data is not None else {}
    probe = as_yaml({"recipe": VERSION, "task": "custom", "model": section, "stages": [], **found})
    return Searching(f"builtin:{section['name']}" if is_builtin else str(model.path), options, probe, limit, costs)


def _costs(said: str, base: Path, model: str) -> Path:
    """base: the manifest's folder. Raises UsageError where there is no such file."""
    found = (base / said).absolute()
    with suppress(OSError):  # a name that is none: said below
        found = found / f"{model}.json" if found.is_dir() else found
    try:
        return existing(found, what="auto.costs:")
    except UsageError as error:
        error.hint = f"on the machine that will serve {model}: `compressctl tables measure MODEL --output {model}.json`"
        raise


def recipe_place(use: str, base: Path) -> str:
    """A recipe as a manifest names it. base: the manifest's folder."""
    return use if use.startswith("builtin:") else str((base / use).absolute())


def _own(recipe: str) -> SearchSection:
    """What the recipe's own section `search` says of time and costs; the defaults without one."""
    try:
        section = merged(Path(recipe)).root.child("search")
        if section is None:
            return SearchSection()
        return SearchSection.model_validate_json(json.dumps(plain(section.only("time", "costs"))))
    except (CompressctlError, ValidationError):  # told when the job is planned
        return SearchSection()


def _options(asked: AutoSection, seconds: int, data: str | None, costs: Path | None) -> Iterator[str]:
    for name in ("drop", "speedup", "smaller", "level", "prefer"):
        value = getattr(asked, name)
        if value is not None:
            yield from (f"--{name}", f"{value:g}" if isinstance(value, float) else value)
    if asked.size is not None:
        yield from ("--size", f"{asked.size}B")
    yield from ("--time", f"{seconds}s")
    if data is not None:
        yield from ("--data", data)
    if costs is not None:
        yield from ("--costs", str(costs))
    for name, value in asked.train.items():
        yield from ("--train", f"{name}={json.dumps(value)}")


def _place(data: str, base: Path) -> str:
    return data if data == "digits" or is_address(data) else str((base / data).absolute())


def recipe_of(one: Searching, sets: Sequence[str]) -> Recipe:
    """What decides the search's result beside its options: model, data and target. Raises RecipeError."""
    if one.probe is None:
        return load(Path(one.subject), sets)
    return read(Path.cwd() / "recipe.yaml", sets, text=one.probe)[0]


@dataclass(frozen=True)
class Found:
    """What became of a search. report, recipe: in the job's folder, where they are there."""

    outcome: Outcome
    message: str
    figures: Figures | None
    report: str | None
    recipe: str | None


def found_by(
    code: int | None, broken: Outcome | None, words: str, run: Path, log: Path, *, is_written: bool, is_strict: bool
) -> Found:
    """is_written: whether the document there is this start's. is_strict: whether a file whose quality nothing judged is missed."""
    search = _read(run) if is_written else None
    outcome, message = outcome_of(code, broken, words, run / "report.json", log)
    if search is None:
        return Found(outcome, message, None, None, None)
    figures = figures_of(run / "best" / "report.json") if search.files else None
    said = " ".join(search.summary[:2]).replace("\n", " ")[:LONGEST_MESSAGE]
    if figures is not None:
        figures = figures.model_copy(update={"headline": said})
    if outcome is Outcome.GOOD and is_strict and _is_unjudged(search):
        outcome, said = (
            Outcome.MISSED,
            "nothing judged the quality of the file that was found, and `strict` asks for that",
        )
    message = message if broken is not None or not said else said
    recipe = "recipe.yaml" if search.files and (run / "recipe.yaml").is_file() else None
    return Found(outcome, message, figures, "search.html" if (run / "search.html").is_file() else None, recipe)


def _is_unjudged(search: Search) -> bool:
    chosen = next((point for point in search.points if point.name == search.chosen), None)
    return chosen is None or chosen.figures is None or chosen.figures.loss is None


def _read(run: Path) -> Search | None:
    try:
        return Search.model_validate_json(read_regular(run / "search.json", _MOST_BYTES))
    except (OSError, CompressctlError, ValidationError):
        return None


def written(run: Path) -> tuple[int, int] | None:
    """Which document of a search lies there: another one after it was written again."""
    try:
        found = (run / "search.json").lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def points_in(run: Path) -> int:
    """How many were measured so far."""
    return sum(1 for _ in (run / "journal").glob("*.json"))
