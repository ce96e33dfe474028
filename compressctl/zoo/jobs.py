"""From a manifest to jobs: which models there are, which recipe each gets, and why."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.core.legible import shortened
from compressctl.core.patterns import matches
from compressctl.core.secrets import without_secrets
from compressctl.recipe.variables import escaped
from compressctl.zoo.facts import FactsReader, ModelFacts
from compressctl.zoo.model_files import MOST_FILES, files_for, fixed_part
from compressctl.zoo.schema import Defaults, Manifest, ModelEntry, Resources, Rule, When, holds

_DEFAULT_TIME, _DEFAULT_CORES, _LONGEST_WHY = 3600, 1, 300


@dataclass(frozen=True)
class Model:
    """path: the ONNX file; None for a model of another source, about which nothing is known before it is loaded."""

    id: str
    entry: ModelEntry
    path: Path | None

    def section(self, base: Path) -> dict[str, Any]:
        """As a recipe's `model`."""
        if self.path is not None:
            return {"source": "onnx", "path": escaped(str(self.path))}
        assert self.entry.model is not None
        return {key: _absolute(value, base) for key, value in self.entry.model.items()}


@dataclass(frozen=True)
class Job:
    """One model under one recipe. sets: what is changed in the recipe, as `--set` writes it. why: which rule chose it.

    recipe: None where there is none, which `problem` says.
    """

    id: str
    model: str
    recipe: str | None
    recipe_id: str
    sets: tuple[str, ...]
    resources: Resources
    why: str
    problem: str | None = None

    def is_in(self, index: int, count: int) -> bool:
        """Whether it belongs to one of so many shards, counted from 1. The same id is always in the same one."""
        return int(hashlib.sha256(self.id.encode()).hexdigest()[:12], 16) % count == index - 1


def models_of(manifest: Manifest, base: Path) -> list[Model]:
    """In the manifest's order, and by path within a pattern. base: the manifest's folder.

    Raises UsageError for ids that are taken, and patterns that find nothing.
    """
    found: list[Model] = []
    taken: dict[str, int] = {}
    for position, entry in enumerate(manifest.models):
        for model in _models(entry, position, base, taken):
            if len(found) >= MOST_FILES:
                raise UsageError(f"the manifest names more than {MOST_FILES:,} models", hint="divide it")
            if manifest.is_wanted(model.id):
                found.append(model)
    return found


def jobs_of(manifest: Manifest, base: Path, facts: FactsReader) -> Iterator[Job]:
    """facts: asked for models that a rule looks into, and no others."""
    for model in models_of(manifest, base):
        yield from _jobs(manifest, model, base, facts)


def _models(entry: ModelEntry, position: int, base: Path, taken: dict[str, int]) -> Iterator[Model]:
    """taken: ids of other models in small letters, since there are disks that know no others; see _unused."""
    at = f"models[{position}]"
    if entry.glob is not None:
        pattern = str(base / entry.glob)
        files = files_for(pattern)
        if not files:
            raise UsageError(f"{at}: no file fits {entry.glob}", hint="patterns start from the manifest's folder")
        start = fixed_part(pattern)
        for file in files:
            yield Model(_unused(_legal(str(file.relative_to(start).with_suffix(""))), taken), entry, file.absolute())
        return
    path = (base / entry.path).absolute() if entry.path is not None else None
    name = entry.id or _legal(path.stem if path is not None else _name_of(entry.model or {}))
    if name.lower() in taken:
        raise UsageError(f"{at}: the id {name} is taken", hint="give it an `id` of its own, in whatever letters")
    yield Model(_unused(name, taken), entry, path)


def _legal(text: str) -> str:
    """As an id, which becomes a file's name, and so tells nobody what the environment gave."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", without_secrets(text)).strip("-.")[:80] or "model"


def _unused(name: str, taken: dict[str, int]) -> str:
    """The name, or the first after it that is free; taken: names, each with the number that was tried last."""
    number, chosen = taken.get(name.lower(), 1), name
    while chosen.lower() in taken:
        number += 1
        chosen = f"{name}-{number}"
    taken[name.lower()], taken[chosen.lower()] = number, 1
    return chosen


def _name_of(model: dict[str, Any]) -> str:
    return str(next((model[key] for key in ("name", "path", "factory") if key in model), model.get("source", "model")))


def _jobs(manifest: Manifest, model: Model, base: Path, facts: FactsReader) -> Iterator[Job]:
    chosen = list(_chosen(manifest, model, facts))
    if not chosen:
        why = "no rule fits it, and `defaults` names no recipe"
        yield Job(model.id, model.id, None, "", (), _resources(manifest.defaults, None, model.entry), why, why)
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
        sets = _sets(manifest.defaults, rule, model, base, job_id)
        yield Job(
            job_id,
            model.id,
            _recipe(rule.use, base),
            rule.name,
            sets,
            _resources(manifest.defaults, rule, model.entry),
            why,
        )


def _chosen(manifest: Manifest, model: Model, facts: FactsReader) -> Iterator[tuple[Rule, str]]:
    """Recipes for a model, each with why."""
    if model.entry.recipe is not None:
        yield Rule(use=model.entry.recipe), "its own"
        return
    is_chosen = False
    for position, rule in enumerate(manifest.recipes):
        known = facts.read(model.path) if model.path is not None and rule.when.asks_facts else ModelFacts()
        if _fits(rule.when, model, known):
            yield rule, _why(rule.when, position)
            is_chosen = True
            if manifest.match == "first":
                return
    if not is_chosen and manifest.defaults.recipe is not None:
        yield Rule(use=manifest.defaults.recipe), "the default"


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


def _recipe(use: str, base: Path) -> str:
    return use if use.startswith("builtin:") else str((base / use).absolute())


def _sets(defaults: Defaults, rule: Rule, model: Model, base: Path, job_id: str) -> tuple[str, ...]:
    """What is nearest to the model counts last. Values of the environment stay references, which the job's process reads again."""
    task = {"task": model.entry.task} if model.entry.task is not None else {}
    limits = {f"budget.{name}": value for name, value in model.entry.budget.items()}
    own = {"model": model.section(base), "name": job_id.replace("@", "-")}
    values = {**own, **task, **defaults.set, **rule.set, **model.entry.set, **limits}
    return tuple(without_secrets(f"{path}={json.dumps(_absolute(value, base))}") for path, value in values.items())


def _absolute(value: Any, base: Path) -> Any:
    """A path that begins with `./` is one of the manifest's; others belong to the recipe."""
    if isinstance(value, str) and value.startswith(("./", "../")):
        return str((base / value).absolute())
    if isinstance(value, dict):
        return {key: _absolute(inner, base) for key, inner in value.items()}
    return [_absolute(inner, base) for inner in value] if isinstance(value, list) else value


def _resources(defaults: Defaults, rule: Rule | None, entry: ModelEntry) -> Resources:
    found: dict[str, Any] = {"cores": _DEFAULT_CORES, "time": _DEFAULT_TIME}
    for given in (defaults.resources, rule.resources if rule is not None else Resources(), entry.resources):
        found |= given.model_dump(exclude_none=True)
    return Resources(**found)


def chosen_jobs(
    jobs: Iterable[Job], *, only: Sequence[str] = (), shard: tuple[int, int] | None = None, limit: int | None = None
) -> Iterator[Job]:
    """only: ids, or patterns over them. limit: so many at most."""
    count = 0
    for job in jobs:
        if only and not any(matches(pattern, (job.id, job.model)) for pattern in only):
            continue
        if shard is not None and not job.is_in(*shard):
            continue
        if limit is not None and count >= limit:
            return
        count += 1
        yield job
