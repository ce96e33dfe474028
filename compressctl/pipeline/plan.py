"""The resolved steps of a recipe, checked before a weight is loaded. Imports no torch, onnx, numpy or runtime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from compressctl.core.author_code import author_code
from compressctl.core.backend import backends
from compressctl.core.cache import Cache
from compressctl.core.errors import UsageError
from compressctl.core.machine import this_machine
from compressctl.core.model import Form
from compressctl.core.needs import FROM_DATA, MEASURED, SCORED, Need, Needs, declared_files, leaves_activations
from compressctl.core.registry import Plugin, Registry
from compressctl.core.source import datasets, decoders, metrics, model_sources
from compressctl.core.target import PLATFORM, Target, computing, resolve_profile
from compressctl.core.technique import TechniqueSpec, techniques
from compressctl.recipe.needs import stage_needs
from compressctl.recipe.order import resolve_target
from compressctl.recipe.schema import FunctionSection, IfSlower, MetricSection, Recipe, Stage
from compressctl.sources.fingerprint import existing, hash_file
from compressctl.sources.load import dataset_fingerprint, model_fingerprint
from compressctl.tasks.judge import called_by, judged_by, taught_by

Kind = Literal["load", "stage", "lower", "export", "measure"]

_LOWER_VERSION = 2
"""Raised where one network becomes another graph than before."""

_STORE_VERSION = 6
"""Raise when what the cache stores for a step changes its format."""


@dataclass(frozen=True)
class Step:
    """key: names the step's output in the cache, None for steps whose output is not kept. cached: it is there already."""

    id: str
    kind: Kind
    use: str
    takes: Form | None
    gives: Form | None
    key: str | None = None
    cached: bool = False
    stage: Stage | None = None


@dataclass(frozen=True)
class Plan:
    """metric: the name of what a drop is counted in. baseline_key: the cache key of the original model once lowered.

    code: what the run executes of the recipe author's, each with its place in the recipe.
    """

    steps: tuple[Step, ...]
    target: Target
    metric: str | None
    model_fingerprint: str
    data_fingerprint: str | None
    baseline_key: str | None
    code: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """A hash that differs when anything that decides the run does."""
        return _digest([self.model_fingerprint, self.data_fingerprint, [step.key for step in self.steps]])


def make_plan(recipe: Recipe, cache: Cache | None) -> Plan:
    """Every step in order. recipe: as the loader gave it, which refuses impossible orders. Raises UsageError for one that searches its stages."""
    if recipe.search is not None:
        raise UsageError(
            "this recipe has no stages yet: its `search` says what is looked for",
            hint="compressctl apply and compressctl auto carry a search out and write the recipe that it finds",
        )
    target = resolve_target(recipe)
    source = model_sources.get(recipe.model.source)
    model_key = model_fingerprint(recipe.model, recipe.base)
    data_key = dataset_fingerprint(recipe.data, recipe.base, recipe.seed) if recipe.data else None
    if recipe.pipeline is not None:
        data_key = _digest([data_key, model_key, called_by(recipe)])
    original = source.form_of(recipe.model.params)
    form, key = original, _digest(["load", model_key, recipe.seed])
    steps = [Step("load", "load", recipe.model.source, None, form)]

    def add(step_id: str, kind: Kind, use: str, gives: Form, step_key: str, stage: Stage | None = None) -> None:
        nonlocal form, key
        steps.append(Step(step_id, kind, use, form, gives, step_key, cache is not None and step_key in cache, stage))
        form, key = gives, step_key

    for stage in recipe.stages:
        if not stage.enabled:
            continue
        spec = techniques.get(stage.use)
        if form is Form.TORCH and form not in spec.forms:
            add(
                f"lower-before-{stage.id}",
                "lower",
                "lower",
                Form.ONNX,
                _digest(["lower", _LOWER_VERSION, _STORE_VERSION, key]),
            )
        gives = spec.gives_from(form)
        add(stage.id, "stage", stage.use, gives, _stage_key(recipe, stage, spec, key, data_key, target), stage)
    if form is Form.TORCH:
        add("lower", "lower", "lower", Form.ONNX, _digest(["lower", _LOWER_VERSION, _STORE_VERSION, key]))
    for entry in recipe.export:
        steps.append(Step(f"export-{entry.backend}", "export", entry.backend, Form.ONNX, None))
    steps.append(Step("measure", "measure", "measure", None, None))
    baseline = _digest(["lower", _LOWER_VERSION, _STORE_VERSION, _digest(["load", model_key, recipe.seed])])
    return Plan(
        steps=tuple(steps),
        target=target,
        metric=recipe.metric_name,
        model_fingerprint=model_key,
        data_fingerprint=data_key,
        baseline_key=baseline if original is Form.TORCH else None,
        code=tuple(_code(recipe)),
    )


def used_plugins(recipe: Recipe) -> list[Plugin]:
    """What a run executes of other packages."""
    stages = [stage for stage in recipe.stages if stage.enabled]
    used: dict[Registry[Any], set[str | None]] = {
        techniques: {stage.use for stage in stages},
        model_sources: {recipe.model.source},
        datasets: {recipe.data.source if recipe.data else None},
        metrics: {where.metric_name for where in recipe.judges.values()},
        decoders: {where.decode.use if where.decode else None for where in recipe.judges.values()},
        backends: {recipe.target.backend, *(entry.backend for entry in recipe.export)},
    }
    return [plugin for registry, names in used.items() for plugin in registry.plugins() if plugin.name in names]


def _code(recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield from author_code(recipe.model.params, "model")
    if recipe.data is not None:
        yield from author_code(recipe.data.params, "data")
    if recipe.pipeline is not None:
        yield from author_code(recipe.pipeline.section, "pipeline")
        for name, model in recipe.pipeline.models.items():
            yield from author_code(model.params, f"pipeline.models.{name}")
    for name, where in recipe.judges.items():
        place = f"heads.{name}." if name else ""
        if isinstance(where.metric, MetricSection):
            yield from author_code(where.metric, f"{place}metric")
        if isinstance(where.loss, FunctionSection):
            yield from author_code(where.loss, f"{place}loss")
        if where.decode is not None:
            yield from author_code(where.decode.params, f"{place}decode")
    for position, stage in enumerate(recipe.stages):
        if stage.enabled:
            yield from author_code(stage.params, f"stages[{position}]")
    for position, entry in enumerate(recipe.export):
        yield from author_code(entry.params, f"export[{position}]")


def stage_seed(recipe_seed: int, stage_id: str) -> int:
    """A stage's own seed: adding or removing another stage does not change it."""
    return int(_digest(["seed", recipe_seed, stage_id])[:8], 16)


def if_slower(stage: Stage, spec: TechniqueSpec, target: Target) -> IfSlower:
    """What the recipe says, or the technique's own default: this machine's clock judges only for processors like its own."""
    is_own = target.profile == resolve_profile("auto", this_machine(), target.backend)
    promises = spec.promises_speed and not leaves_activations(stage.params)
    return stage.if_slower or ("undo" if promises and is_own else "keep")


def _stage_key(
    recipe: Recipe, stage: Stage, spec: TechniqueSpec, input_key: str, data_key: str | None, target: Target
) -> str:
    """A hash of everything that decides what the stage gives: its own words, its model, and what it is handed beside it.

    The original model needs no place of its own: every key goes back to it by `input_key`.
    """
    needs, slower = stage_needs(stage, spec), if_slower(stage, spec, target)
    return _digest(
        {
            "store": _STORE_VERSION,
            "technique": [spec.name, spec.version],
            "params": stage.params.model_dump(mode="json"),
            "files": _file_hashes(stage, recipe.base),
            "seed": stage_seed(recipe.seed, stage.id),
            "model": input_key,
            "gate": stage.gate.model_dump(mode="json") if stage.gate else None,
            "if_slower": slower,
            "needs": sorted(needs.all),
            "handed": _handed(recipe, needs, data_key),
            "target": _target(target, needs, is_measured=stage.gate is not None or slower != "keep"),
            "timed": [recipe.target.shapes, data_key] if slower != "keep" or needs.any_of(MEASURED) else None,
            "scored": [data_key, judged_by(recipe)] if stage.gate else None,
        }
    )


def _handed(recipe: Recipe, needs: Needs, data_key: str | None) -> dict[str, Any]:
    """The recipe's data and words that the stage is handed. A session or a score comes with what it is scored by."""
    is_scored = needs.any_of(SCORED)
    return {
        "data": data_key if is_scored or needs.any_of(FROM_DATA) else None,
        "task": taught_by(recipe) if is_scored or Need.TASK in needs else None,
        "judged by": judged_by(recipe) if is_scored else None,
    }


def _target(target: Target, needs: Needs, *, is_measured: bool) -> dict[str, Any]:
    """What of the target decides the result: all of it where anything is measured, by the stage, its gate or its clock.

    What a busy core draws decides no more than a figure in the report.
    """
    if is_measured or needs.any_of(MEASURED):
        named = [field.name for field in fields(target) if field.name != "watts_per_core"]
    else:
        named = list(PLATFORM) if Need.TARGET in needs else []
    found = {name: getattr(target, name) for name in named}
    return {**found, "options": computing(target.options)} if "options" in named else found


def _file_hashes(stage: Stage, base: Path) -> dict[str, str]:
    """Of the files that the stage's params name. Raises UsageError when one is not there."""
    files = declared_files(stage.params, base)
    return {name: hash_file(existing(path, what=f"stage {stage.id}: the file")) for name, path in files.items()}


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
