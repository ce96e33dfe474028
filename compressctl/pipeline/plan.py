"""The resolved steps of a recipe, checked before a weight is loaded. Imports no torch, onnx, numpy or runtime."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compressctl.core.cache import Cache
from compressctl.core.machine import this_machine
from compressctl.core.model import Form
from compressctl.core.source import DEFAULT_METRIC, model_sources
from compressctl.core.target import Target, resolve_profile
from compressctl.core.technique import Need, TechniqueSpec, techniques
from compressctl.recipe.order import resolve_target
from compressctl.recipe.schema import IfSlower, Recipe, Stage
from compressctl.sources.fingerprint import existing, hash_file
from compressctl.sources.load import dataset_fingerprint, model_fingerprint

Kind = Literal["load", "stage", "lower", "export", "measure"]

_STORE_VERSION = 5
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
    """metric: the name of what a drop is counted in. baseline_key: the cache key of the original model once lowered."""

    steps: tuple[Step, ...]
    target: Target
    metric: str | None
    model_fingerprint: str
    data_fingerprint: str | None
    baseline_key: str | None

    @property
    def digest(self) -> str:
        """A hash that differs when anything that decides the run does."""
        return _digest([self.model_fingerprint, self.data_fingerprint, [step.key for step in self.steps]])


def make_plan(recipe: Recipe, cache: Cache | None) -> Plan:
    """Every step in order. recipe: as the loader gave it, which refuses impossible orders."""
    target = resolve_target(recipe)
    source = model_sources.get(recipe.model.source)
    model_key = model_fingerprint(recipe.model, recipe.base)
    data_key = dataset_fingerprint(recipe.data, recipe.base, recipe.seed) if recipe.data else None
    form, key = source.form, _digest(["load", model_key, recipe.seed])
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
            add(f"lower-before-{stage.id}", "lower", "lower", Form.ONNX, _digest(["lower", _STORE_VERSION, key]))
        gives = spec.gives_from(form)
        add(stage.id, "stage", stage.use, gives, _stage_key(recipe, stage, spec, gives, key, data_key, target), stage)
    if form is Form.TORCH:
        add("lower", "lower", "lower", Form.ONNX, _digest(["lower", _STORE_VERSION, key]))
    for entry in recipe.export:
        steps.append(Step(f"export-{entry.backend}", "export", entry.backend, Form.ONNX, None))
    steps.append(Step("measure", "measure", "measure", None, None))
    baseline = _digest(["lower", _STORE_VERSION, _digest(["load", model_key, recipe.seed])])
    return Plan(
        steps=tuple(steps),
        target=target,
        metric=recipe.metric or DEFAULT_METRIC.get(recipe.task),
        model_fingerprint=model_key,
        data_fingerprint=data_key,
        baseline_key=baseline if source.form is Form.TORCH else None,
    )


def stage_seed(recipe_seed: int, stage_id: str) -> int:
    """A stage's own seed: adding or removing another stage does not change it."""
    return int(_digest(["seed", recipe_seed, stage_id])[:8], 16)


def if_slower(stage: Stage, spec: TechniqueSpec, target: Target) -> IfSlower:
    """What the recipe says, or the technique's own default: this machine's clock judges only for processors like its own."""
    is_own = target.profile == resolve_profile("auto", this_machine(), target.backend)
    return stage.if_slower or ("undo" if spec.promises_speed and is_own else "keep")


def _stage_key(
    recipe: Recipe, stage: Stage, spec: TechniqueSpec, gives: Form, input_key: str, data_key: str | None, target: Target
) -> str:
    """A hash of everything that decides what the stage gives."""
    needs = spec.needs_for(stage.params)
    gate = stage.gate.model_dump(mode="json") if stage.gate else None
    wanted = if_slower(stage, spec, target)
    timed = spec.reads_target or wanted != "keep"
    return _digest(
        [
            "stage",
            _STORE_VERSION,
            spec.name,
            spec.version,
            stage.params.model_dump(mode="json"),
            gate,
            wanted,
            input_key,
            data_key if needs or gate or spec.reads_data else None,
            stage_seed(recipe.seed, stage.id),
            _target_facts(target, timed=timed) if timed or gives is Form.ONNX or gate else None,
            [recipe.task, recipe.metric or DEFAULT_METRIC.get(recipe.task)]
            if _reads_task(spec, needs) or gate
            else None,
            _file_hashes(spec, stage, recipe.base),
        ]
    )


def _reads_task(spec: TechniqueSpec, needs: frozenset[Need]) -> bool:
    return spec.reads_data or bool(needs & {Need.TRAINING_DATA, Need.LABELS})


def _target_facts(target: Target, *, timed: bool) -> list[Any]:
    """What may decide the result: how it is served too, where something is timed or the technique looks at the target."""
    served = [target.threads, target.batch] if timed else []
    return [target.backend, target.device, target.profile, *served]


def _file_hashes(spec: TechniqueSpec, stage: Stage, base: Path) -> dict[str, str] | None:
    """Of the files that the stage's params name. Raises UsageError when one is not there."""
    if spec.files is None:
        return None
    files = spec.files(stage.params, base)
    return {name: hash_file(existing(path, what=f"stage {stage.id}: the file")) for name, path in files.items()}


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
