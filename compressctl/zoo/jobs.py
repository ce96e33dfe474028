"""From a manifest to jobs: which models there are, which recipe each gets, and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressctl.core.errors import CompressctlError, ExitCode, MachineError, UsageError
from compressctl.core.legible import shortened
from compressctl.core.patterns import matches
from compressctl.core.secrets import without_secrets
from compressctl.recipe.compose import merged
from compressctl.zoo.facts import FactsReader, ModelFacts
from compressctl.zoo.models import Model, absolute, models_of
from compressctl.zoo.schema import AUTO, AutoSection, Defaults, Manifest, ModelEntry, Resources, Rule, When, holds
from compressctl.zoo.searches import Searching, recipe_place, searching

_DEFAULT_TIME, _DEFAULT_CORES, _LONGEST_WHY = 3600, 1, 300


@dataclass(frozen=True)
class Job:
    """One model under one recipe. sets: what is changed in the recipe, as `--set` writes it. why: which rule chose it.

    recipe: None where there is none, which `problem` says. problem, code: why it cannot run, and what a run of its own would end with.
    searching: what is asked where the job searches for its recipe, which `recipe` then does not name. is_unfetched: its model lies elsewhere and was not brought, so that nothing is known of its content.
    """

    id: str
    model: str
    recipe: str | None
    recipe_id: str
    sets: tuple[str, ...]
    resources: Resources
    why: str
    problem: str | None = None
    code: ExitCode = ExitCode.USAGE
    is_unfetched: bool = False
    searching: Searching | None = None


IsSelected = Callable[[str, str], bool]
"""Whether a job is asked for, by its id and its model's."""


def is_selected(job: str, model: str, *, only: Sequence[str] = (), shard: tuple[int, int] | None = None) -> bool:
    """only: ids, or patterns over them. shard: one of so many, counted from 1. The same id is always in the same one."""
    named = not only or any(matches(pattern, (job, model)) for pattern in only)
    if shard is None or not named:
        return named
    index, count = shard
    return int(hashlib.sha256(job.encode()).hexdigest()[:12], 16) % count == index - 1


def ids_of(manifest: Manifest, model: Model) -> frozenset[str]:
    """What a model's jobs may be called, whatever its rules ask of it."""
    if manifest.match == "first":
        return frozenset([model.id])
    uses = (model.entry.recipe, manifest.defaults.recipe)
    rules = [*manifest.recipes, *(Rule(use=use) for use in uses if use is not None)]
    return frozenset([model.id, *(f"{model.id}@{rule.name}" for rule in rules)])


def check_only(manifest: Manifest, models: Sequence[Model], only: Sequence[str]) -> None:
    """Raises UsageError for a pattern that no job may be called by: a slip, after which nothing would run and nothing would be said."""
    for pattern in only:
        if not any(matches(pattern, (model.id, *ids_of(manifest, model))) for model in models):
            shown = ", ".join(model.id for model in models[:8]) + (", ..." if len(models) > 8 else "")
            raise UsageError(f"--only: no job fits {shortened(pattern, 100)!r}", hint=f"there are: {shown}")


def jobs_of(
    manifest: Manifest,
    base: Path,
    facts: FactsReader,
    selected: IsSelected = lambda job, model: True,
    *,
    fetches: bool = False,
    models: Sequence[Model] | None = None,
) -> Iterator[Job]:
    """models: where they were found already. facts: asked for models that a rule looks into, and no others. fetches: whether models at addresses are brought."""
    for model in models_of(manifest, base) if models is None else models:
        # Where each model has one job, its id is known before the model is looked at, which may have to be brought for that.
        if manifest.match == "all" or selected(model.id, model.id):
            yield from (job for job in _jobs(manifest, model, base, facts, fetches) if selected(job.id, job.model))


def _jobs(manifest: Manifest, model: Model, base: Path, facts: FactsReader, fetches: bool) -> Iterator[Job]:
    resources = _resources(manifest.defaults, None, model.entry)
    try:
        pinned = _pinned(model, manifest.defaults.retries) if fetches else model.pinned(fetches=False)
    except CompressctlError as error:
        why = "it cannot be brought"
        yield Job(model.id, model.id, None, "", (), resources, why, str(error), error.exit_code)
        return
    chosen = list(_chosen(manifest, pinned or model, facts))
    if not chosen:
        why = "no rule fits it, and `defaults` names no recipe"
        yield Job(model.id, model.id, None, "", (), resources, why, why, ExitCode.NOTHING_TO_COMPRESS)
        return
    names = [rule.name.lower() for rule, _ in chosen]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two rules that fit {model.id} have one name: {', '.join(names)}", hint="give each an `id` of its own"
        )
    for rule, why in chosen:
        job_id = model.id if len(chosen) == 1 and manifest.match == "first" else f"{model.id}@{rule.name}"
        if without_secrets(job_id) != job_id:
            raise UsageError(
                f"the id {job_id} holds what the environment gave, and becomes a file's name",
                hint="write an `id` that anybody may read",
            )
        recipe = recipe_place(rule.use, base)
        if rule.use == AUTO or _says(recipe, "search"):
            yield _search(manifest, model, pinned, rule, base, job_id, why)
            continue
        sets = _sets(manifest.defaults, rule, pinned or model, base, job_id, _unsaid(recipe))
        yield Job(
            job_id,
            model.id,
            recipe,
            rule.name,
            sets,
            _resources(manifest.defaults, rule, model.entry),
            why,
            is_unfetched=pinned is None,
        )


def _search(
    manifest: Manifest, model: Model, pinned: Model | None, rule: Rule, base: Path, job_id: str, why: str
) -> Job:
    """The model goes into the recipe that the search begins with, where there is one; else it is that file."""
    asked = _asked(manifest.defaults.auto, rule.auto, model.entry.auto)
    if rule.use != AUTO:
        asked = AutoSection(base=rule.use)
    resources = _resources(manifest.defaults, rule, model.entry)
    if all(one.resources.time is None for one in (manifest.defaults, rule, model.entry)):
        resources = resources.model_copy(update={"time": max(_DEFAULT_TIME, 3 * (asked.time or 0) // 2)})
    assert resources.time is not None
    try:
        one = searching(asked, pinned or model, base, resources.time)
    except CompressctlError as error:
        return Job(job_id, model.id, None, rule.name, (), resources, why, str(error), error.exit_code)
    sets = _sets(manifest.defaults, rule, pinned or model, base, job_id, {})
    if one.probe is not None:
        sets = tuple(text for text in sets if not text.startswith("model="))
    return Job(job_id, model.id, AUTO, rule.name, sets, resources, why, is_unfetched=pinned is None, searching=one)


def _asked(*sections: AutoSection) -> AutoSection:
    """Of all that is said, what is nearest to the model."""
    said: dict[str, Any] = {}
    for section in sections:
        said |= section.model_dump(exclude_unset=True)
    return AutoSection(**said)


def _pinned(model: Model, retries: int) -> Model | None:
    """Brought, and again after what may pass by itself."""
    for _ in range(retries):
        try:
            return model.pinned(fetches=True)
        except MachineError:
            continue
    return model.pinned(fetches=True)


def _chosen(manifest: Manifest, model: Model, facts: FactsReader) -> Iterator[tuple[Rule, str]]:
    """Recipes for a model, each with why."""
    if model.entry.recipe is not None:
        yield Rule(use=model.entry.recipe), "its own"
        return
    is_chosen = False
    for position, rule in enumerate(manifest.recipes):
        known = _facts(model, facts) if rule.when.asks_facts else ModelFacts()
        if _fits(rule.when, model, known):
            yield rule, _why(rule.when, position)
            is_chosen = True
            if manifest.match == "first":
                return
    if not is_chosen and manifest.defaults.recipe is not None:
        yield Rule(use=manifest.defaults.recipe), "the default"


def _facts(model: Model, facts: FactsReader) -> ModelFacts:
    if model.at is not None:
        try:
            return facts.read_content(model.at.sha256, model.fetch)
        except CompressctlError as error:
            return ModelFacts(problem=str(error))
    return facts.read(model.path) if model.path is not None else ModelFacts()


def _fits(when: When, model: Model, facts: ModelFacts) -> bool:
    ops = set(facts.ops) if facts.ops is not None else None
    claims = (
        when.id is None or matches(when.id, (model.id,)),
        set(when.tags) <= set(model.entry.tags),
        when.task is None or model.entry.task == when.task,
        not when.ops or (ops is not None and bool(ops & set(when.ops))),
        not when.no_ops or (ops is not None and not ops & set(when.no_ops)),
        *(
            limit is None or (value is not None and holds(limit, value))
            for limit, value in (
                (when.parameters, facts.parameters),
                (when.size, facts.size),
                (when.inputs, facts.inputs),
            )
        ),
        when.open_axes is None or facts.open_axes == when.open_axes,
        when.quantized is None or facts.quantized == when.quantized,
    )
    return all(claims)


def _why(when: When, position: int) -> str:
    said = when.model_dump(mode="json", exclude_defaults=True)
    words = ", ".join(f"{key} {', '.join(value) if isinstance(value, list) else value}" for key, value in said.items())
    return f"recipes[{position}]: {shortened(words, _LONGEST_WHY) or 'every model'}"


def _unsaid(recipe: str) -> dict[str, Any]:
    """What a zoo puts into a recipe that says nothing of it: what one model has, another of the same recipe has not."""
    return {"unmatched": "note"} if _says(recipe, "unmatched") is False else {}


def _says(recipe: str, key: str) -> bool | None:
    """Whether a recipe's file, or one that it extends, holds the key; None for one that cannot be read."""
    try:
        return merged(Path(recipe)).root.child(key) is not None
    except CompressctlError:  # told when the job is planned
        return None


def _sets(
    defaults: Defaults, rule: Rule, model: Model, base: Path, job_id: str, unsaid: dict[str, Any]
) -> tuple[str, ...]:
    """What is nearest to the model counts last. Values of the environment stay references, which the job's process reads again."""
    task = {"task": model.entry.task} if model.entry.task is not None else {}
    limits = {f"budget.{name}": value for name, value in model.entry.budget.items()}
    own = {"model": model.section(base), "name": job_id.replace("@", "-")}
    values = {**own, **unsaid, **task, **defaults.set, **rule.set, **model.entry.set, **limits}
    return tuple(without_secrets(f"{path}={json.dumps(absolute(value, base))}") for path, value in values.items())


def _resources(defaults: Defaults, rule: Rule | None, entry: ModelEntry) -> Resources:
    found: dict[str, Any] = {"cores": _DEFAULT_CORES, "time": _DEFAULT_TIME}
    for given in (defaults.resources, rule.resources if rule is not None else Resources(), entry.resources):
        found |= given.model_dump(exclude_none=True)
    return Resources(**found)
